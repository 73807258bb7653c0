#!/bin/sh
# PostgreSQL around a backup: run in the guest as root, by its agent, as `sh -s -- VERB ...` with this text as input.
#
#   prepare SECONDS             makes a checkpoint in each server that runs, and notes where its recovery would begin
#   cut ARCHIVE NOTE...         removes archived logs that are older than what was noted; ARCHIVE may be empty
#
# With all disks at one instant a server recovers by itself, to the last commit. The checkpoint before it makes that quick, and
# says which logs the recovery needs. Only an archive is ever cut, never pg_wal, and nothing but files named like a log is
# removed. A note is LOG DIRECTORY: the first log that is needed, and the server's data directory.
#
# Lines of the output that begin with "note " are kept with the run. Exit status 66: no server runs here.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGCONNECT_TIMEOUT=20
cd /

fail() {
  echo "$*" >&2
  exit 1
}

# The first process of each server. All its processes run the same program, in the data directory.
servers() {
  ls -l /proc/[0-9]*/exe 2>/dev/null </dev/null |
    sed -n 's#^.* /proc/\([0-9]*\)/exe -> .*/postgres\( (deleted)\)\{0,1\}$#\1#p' |
    while read -r pid; do
      data=$(readlink "/proc/$pid/cwd") || continue
      [ -r "$data/postmaster.pid" ] || continue
      read -r first <"$data/postmaster.pid"
      [ "$first" != "$pid" ] || echo "$pid"
    done
}

# Looks at one server: sets data, port, sockets, owner, psql.
look() {
  data=$(readlink "/proc/$1/cwd") || fail "a PostgreSQL server has ended meanwhile"
  { read -r _ && read -r _ && read -r _ && read -r port && read -r sockets; } <"$data/postmaster.pid" ||
    fail "$data/postmaster.pid makes no sense"
  owner=$(stat -c %U "$data") || fail "nobody owns $data"
  exe=$(readlink "/proc/$1/exe")
  psql=${exe%/*}/psql
  [ -x "$psql" ] || psql=$(command -v psql) || fail "PostgreSQL runs here, and psql is not installed"
}

# Asks the server that was looked at, as the user that it belongs to, through its own socket.
ask() {
  runuser -u "$owner" -- "$psql" -h "$sockets" -p "$port" -d postgres -XAtqw -v ON_ERROR_STOP=1 "$@" </dev/null
}

prepare() {
  pids=$(servers)
  [ -n "$pids" ] || exit 66
  export PGOPTIONS="-c statement_timeout=${1}s"
  for pid in $pids; do
    look "$pid"
    said=$(ask -c CHECKPOINT -c "SELECT redo_wal_file, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
      ELSE pg_current_wal_lsn() END FROM pg_control_checkpoint()") ||
      fail "the PostgreSQL server of $data could not be asked for a checkpoint"
    echo "PostgreSQL in $data: a checkpoint was made, its log is at ${said#*|} and needed from ${said%%|*} on"
    echo "note ${said%%|*} $data"
  done
}

# Where the server that was looked at archives its logs to: the directory before %f in its archive_command.
archive_of() {
  command=$(ask -c 'SHOW archive_command') || fail "the PostgreSQL server of $data could not be asked where its archive is"
  case $command in
    '' | '(disabled)') return ;;
  esac
  directory=$(echo "$command" | sed -n "s#^.*[ \"'=]\(/[^ \"'=]*\)/%f.*\$#\1#p")
  [ -n "$directory" ] || fail "archive_command of $data names no directory before %f; say which one it is"
  echo "$directory"
}

cut_one() { # ARCHIVE FIRST-LOG
  case $2 in
    *[!0-9A-F]*) fail "\"$2\" is no log's name" ;;
  esac
  [ ${#2} = 24 ] || fail "\"$2\" is no log's name"
  [ -d "$1" ] || fail "the archive $1 is not there"
  archive=$(readlink -f "$1")
  case $archive/ in
    "$(readlink -f "$data")"/* | "$(readlink -f "$data/pg_wal")"/*) fail "$1 is part of the server's own data and is not cut" ;;
  esac
  # The number of a log is behind the timeline's eight digits.
  old=$(ls "$archive" | awk -v first="${2#????????}" '
    /^[0-9A-F]+(\.partial)?(\.(gz|bz2|xz|lz4|zst))?$/ {
      name = $0; sub(/\..*/, "", name)
      if (length(name) == 24 && (substr(name, 9) "") < (first "")) print $0
    }')
  cd "$archive" || fail "the archive $1 cannot be entered"
  # Names have neither blanks nor wildcards.
  [ -z "$old" ] || echo "$old" | xargs rm -f -- || fail "logs in $1 could not be removed"
  cd /
  echo "PostgreSQL in $data: $(echo "$old" | grep -c .) logs before $2 were removed from $1"
}

cut() {
  given=$1
  shift
  [ -z "$given" ] || [ $# = 1 ] || fail "$# servers run here, which have no archive in common: leave the directory out"
  for note in "$@"; do
    found=
    for pid in $(servers); do
      look "$pid"
      [ "$data" = "${note#* }" ] || continue
      found=$data
      directory=$given
      [ -n "$directory" ] || directory=$(archive_of) || exit 1
      if [ -n "$directory" ]; then
        cut_one "$directory" "${note%% *}"
      else
        echo "PostgreSQL in $data: it archives no logs"
      fi
    done
    [ -n "$found" ] || fail "no PostgreSQL server runs in ${note#* } any more"
  done
}

verb=${1:?a verb}
shift
case $verb in
  prepare | cut) "$verb" "$@" ;;
  *) fail "no such verb: $verb" ;;
esac
