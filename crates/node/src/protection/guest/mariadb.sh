#!/bin/sh
# MariaDB and MySQL around a backup: run in the guest as root, by its agent, as `sh -s -- VERB ...` with this text as input.
#
#   prepare SECONDS HOLD        holds commits back, at most HOLD seconds, and notes the binary log that is written then
#   release                     lets them go; it fails if they were let go before
#   cut NOTE                    removes the binary logs before the one that was noted
#
# With all disks at one instant InnoDB recovers by itself, to the last commit. Other engines do not, and the binary log may be
# ahead or behind: so commits and changes of tables are held back, with all tables written out, from before the instant until after
# it, by a session of its own. That session ends by itself, too: nobody has to come back to let the server go.
#
# Root's own way into the server is taken: its socket, or /root/.my.cnf. Lines of the output that begin with "note " are kept
# with the run. Exit status 66: no server runs here.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /
place=/run/nestling-mariadb

fail() {
  echo "$*" >&2
  exit 1
}

runs() {
  ls -l /proc/[0-9]*/exe 2>/dev/null </dev/null | grep -q -e '/mariadbd$' -e '/mysqld$' -e '/\(mariadbd\|mysqld\) (deleted)$'
}

client() {
  program=$(command -v mariadb || command -v mysql) || fail "a server runs here, and neither mariadb nor mysql is installed"
}

# What the session is told: to hold commits back, and to say where the log is; then nothing until it is let go.
session() { # LOCK STATUS SECONDS HOLD
  echo "SET SESSION lock_wait_timeout = $3; $1; SELECT 'at'; $2; SELECT 'held';"
  turns=0
  while [ -e "$place/hold" ] && [ "$turns" -lt $(($4 * 5)) ]; do
    sleep 0.2
    turns=$((turns + 1))
  done
}

prepare() { # SECONDS HOLD
  runs || exit 66
  client
  # Of a backup that nobody ended.
  (release) >/dev/null 2>&1
  rm -rf "$place"
  mkdir -p -m 700 "$place" && : >"$place/hold" && mkfifo "$place/said" || fail "$place cannot be made"
  version=$("$program" -NB -e 'SELECT VERSION()' </dev/null) ||
    fail "the server cannot be asked; root needs its socket or a password in /root/.my.cnf"
  lock='FLUSH TABLES WITH READ LOCK' status='SHOW MASTER STATUS'
  case $version in
    *[Mm]aria*) lock='BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT' ;;
    8.[2-9]* | 9.*) status='SHOW BINARY LOG STATUS' ;;
  esac
  : >"$place/held"
  {
    session "$lock" "$status" "$1" "$2" 2>/dev/null | "$program" -NBn >"$place/said" 2>&1
    rm -f "$place/held"
  } </dev/null >/dev/null 2>&1 &
  state=asked log= said=
  while [ "$state" != held ] && read -r line; do
    said=$line
    case $state,$line in
      asked,at) state=at ;;
      at,held) state=held ;;
      at,*) log=$line ;;
    esac
  done <"$place/said"
  [ "$state" = held ] || fail "commits could not be held back: $said"
  name=$(echo "$log" | sed 's/[[:blank:]].*//')
  if [ -n "$name" ]; then
    echo "$version: commits are held back, its binary log is at $log"
    echo "note $name"
  else
    echo "$version: commits are held back, it writes no binary log"
  fi
}

release() {
  [ -e "$place/hold" ] || return 0
  [ -e "$place/held" ]
  was=$?
  rm -f "$place/hold"
  turns=0
  while [ -e "$place/held" ] && [ "$turns" -lt 100 ]; do
    sleep 0.1
    turns=$((turns + 1))
  done
  [ ! -e "$place/held" ] || fail "the session that holds commits back does not end"
  rm -rf "$place"
  [ "$was" = 0 ] || fail "commits were not held back until the end"
  echo "commits go on"
}

cut() { # NOTE
  case ${1:?a binary log} in
    *[!A-Za-z0-9._-]*) fail "\"$1\" is no binary log's name" ;;
  esac
  client
  "$program" -NB -e "PURGE BINARY LOGS TO '$1'" </dev/null || fail "the binary logs before $1 could not be removed"
  echo "the binary logs before $1 were removed; left are $("$program" -NB -e 'SHOW BINARY LOGS' </dev/null | sed 's/[[:blank:]].*//' | tr '\n' ' ')"
}

verb=${1:?a verb}
shift
case $verb in
  prepare | release | cut) "$verb" "$@" ;;
  *) fail "no such verb: $verb" ;;
esac
