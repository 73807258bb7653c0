#!/usr/bin/env bash
# Builds the disk images of the vault's benchmark, from Debian packages and generated data:
#
#   scripts/vault-corpus.sh [DIR]     default: /var/tmp/nestling-vault-corpus; some 15 GiB, some minutes, as root
#
#   A.raw   8 GiB virtual, GPT and ext4: programs, logs, a PostgreSQL and a SQLite database, documents, data that
#           cannot be compressed, files that were deleted
#   B.raw   A after a package upgrade, new packages and some use, changed in place
#   C.raw   another machine of the same release with other packages
#   D.raw   4 GiB virtual, GPT and NTFS
#   E0.raw  2 GiB, ext4 with a PostgreSQL database;  E.raw  E0 after 4,000 scattered writes of 8 KiB
#   B.changed.json, E.changed.json   what differs, in units of 64 KiB
#   manifest.json                    sizes, used bytes, sha256; there last: a DIR that has it is complete
#
# What is mounted is mounted in namespaces of this script's own, so it is gone when this ends, however it ends.
. "$(dirname "$0")/setup.sh"
. "$(dirname "$0")/debian-apt.sh"
export LC_ALL=C SOURCE_DATE_EPOCH=1700000000

VERSION=1
CHANGED_PAGES=4000
PROGRAMS_A=(build-essential clang golang-go git emacs-nox python3-scipy gdb postgresql nginx openssh-server openssl
  ca-certificates vim man-db less curl rsync bind9-host libxml2-utils imagemagick)
PROGRAMS_B=(sqlite3 tmux jq)
# Not upgraded: they would be most of what changes.
HELD_B=('postgresql*' 'perl*' 'libperl*')
PROGRAMS_C=(build-essential apache2 php-cli php-fpm ruby mariadb-server r-base-core libreoffice-core python3-sympy octave
  openssh-server openssl ca-certificates vim perl-doc git ffmpeg)

SELF=$(realpath "$0")
PY="$(dirname "$SELF")/vault_corpus.py"
generate() { python3 "$PY" "$@"; }
note() { printf '  %s: %s\n' "$(date +%T)" "$*" >&2; }

# Runs a step of this script where its mounts and processes end with it.
inside() { unshare --mount --pid --fork --kill-child --propagation private -- bash "$SELF" --inside "$@"; }

# --- steps that mount -------------------------------------------------------------------------------------------

# A system to change root into: its devices and processes, and no services that start by themselves.
enter() {
  mount --bind /dev "$1/dev"
  mount -t proc proc "$1/proc"
}

# Runs PostgreSQL of the system in $1, its database in $2 there, and gives it the text of standard input.
postgres_inside() {
  local root=$1 data=$2 programs
  programs=$(cd "$root" && echo usr/lib/postgresql/*/bin)
  cat >"$root/tmp/input.sql"
  cat >"$root/tmp/postgres.sh" <<END
set -e
export LC_ALL=C PATH=/$programs:\$PATH
[ -f $data/PG_VERSION ] || initdb -D $data --no-sync --no-instructions >/dev/null
pg_ctl -D $data -w -s -l /tmp/postgres.log start -o "-c listen_addresses= -c unix_socket_directories=/tmp -c fsync=off \
  -c shared_buffers=256MB -c dynamic_shared_memory_type=mmap -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=256MB \
  -c autovacuum=off -c maintenance_work_mem=256MB"
psql -h /tmp -q -v ON_ERROR_STOP=1 -f /tmp/input.sql postgres
pg_ctl -D $data -w -s stop
END
  chroot "$root" setpriv --reuid postgres --regid postgres --init-groups sh /tmp/postgres.sh >&2
  rm "$root/tmp/postgres.sh" "$root/tmp/input.sql"
}

table_sql() {
  cat <<END
SELECT setseed(0.$1);
CREATE TABLE account AS SELECT g AS id, md5(g::text) AS token, (random() * 1000000)::int AS balance,
  'Customer ' || g AS name, date '2020-01-01' + (random() * 1500)::int AS since, md5(random()::text) || md5(random()::text) AS note
  FROM generate_series(1, $2) g;
ALTER TABLE account ADD PRIMARY KEY (id);
CREATE INDEX account_token ON account (token);
VACUUM (FREEZE) account;
CHECKPOINT;
END
}

inside_database() {
  local root=$1
  enter "$root"
  install -d -o "$(chroot "$root" id -u postgres)" -g "$(chroot "$root" id -g postgres)" "$root/$2"
  table_sql "$3" "$4" | postgres_inside "$root" "/$2"
}

# Logs that came and went: their blocks stay full, and nothing refers to them.
inside_delete() {
  local mount=$2/mount
  mount -o loop,offset=$((2048 * 512)),nodiscard "$1" "$mount"
  generate logs "$mount/var/log/old.log" $((120 << 20)) 7
  generate random "$mount/var/tmp/upload" $((60 << 20)) 8
  sync -f "$mount"
  rm "$mount/var/log/old.log" "$mount/var/tmp/upload"
  umount "$mount"
}

# An upgrade, new programs, databases in use, logs that grow and turn, files that come and go.
inside_churn() {
  local mount=$2/mount release=$3 APT
  mount -o "loop,offset=$((2048 * 512)),nodiscard,noatime" "$1" "$mount"
  enter "$mount"
  apt_folder "$2/apt" "$release" "$release-security"
  mount --bind "$2/apt/cache/archives" "$mount/var/cache/apt/archives"
  chroot "$mount" apt-mark hold "${HELD_B[@]}" >&2
  local into=(-o "Dir::State::status=$mount/var/lib/dpkg/status" -o "Dir::Cache::archives=$mount/var/cache/apt/archives"
    -o "DPkg::Chroot-Directory=$mount")
  "${APT[@]}" "${into[@]}" dist-upgrade >&2
  "${APT[@]}" "${into[@]}" install "${PROGRAMS_B[@]}" >&2
  umount "$mount/var/cache/apt/archives"
  postgres_inside "$mount" /srv/database <<END
UPDATE account SET balance = balance + 1 WHERE id % 80000 < 20;
END
  generate update-sqlite "$mount/srv/items.db" 500 21
  generate logs "$mount/var/log/app.log" $((12 << 20)) 22
  gzip "$mount/var/log/app.log.2"
  generate files "$mount/srv/documents/new" $((6 << 20)) 23
  generate random "$mount/srv/media/new" $((8 << 20)) 24
  rm -r "$mount/srv/documents/07"
  umount "$mount/proc" "$mount/dev"
  umount "$mount"
}

inside_ntfs() {
  local mount=$2/mount
  ntfs-3g -o big_writes "$1" "$mount"
  mkdir -p "$mount/Windows/System32" "$mount/Windows/SysWOW64" "$mount/Users/Public" "$mount/ProgramData/Logs"
  find "$2/wine" -path '*x86_64-windows*' -type f -exec cp -t "$mount/Windows/System32" {} +
  find "$2/wine" -path '*i386-windows*' -type f -exec cp -t "$mount/Windows/SysWOW64" {} +
  generate files "$mount/Users/Public" $((200 << 20)) 31
  generate logs "$mount/ProgramData/Logs/events.log" $((150 << 20)) 32
  generate random "$mount/Users/Public/video.mp4" $((150 << 20)) 33
  generate sqlite "$mount/ProgramData/state.db" 400000 34
  generate random "$mount/Users/Public/deleted" $((40 << 20)) 35
  sync -f "$mount"
  rm "$mount/Users/Public/deleted"
  umount "$mount"
}

# --- trees and images -------------------------------------------------------------------------------------------

# A Debian system in a folder: inside install RELEASE ROOT SOURCES PACKAGE...
inside_install() {
  local release=$1 root=$2 sources=$3 words
  shift 3
  words=$(IFS=,; echo "$*")
  # shellcheck disable=SC2016  # mmdebstrap's shell expands it.
  mmdebstrap --quiet --mode=root --variant=important --format=directory --skip=output/mknod --include="$words" \
    --dpkgopt=force-unsafe-io --aptopt='APT::Install-Recommends "false"' \
    --essential-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d"' \
    "$release" "$root" "$sources" >&2
}

tree_a() {
  local root=$1
  mkdir -p "$root/srv/media" "$root/srv/documents"
  generate logs "$root/var/log/app.log" $((180 << 20)) 1
  generate logs "$root/var/log/app.log.1" $((120 << 20)) 2
  generate logs "$root/var/log/app.log.2" $((24 << 20)) 3
  generate logs "$root/var/log/app.log.3" $((200 << 20)) 4
  gzip -1 "$root/var/log/app.log.3"
  generate random "$root/srv/media/films" $((300 << 20)) 5
  generate files "$root/srv/documents" $((150 << 20)) 6
  generate sqlite "$root/srv/items.db" 1400000 9
}

tree_c() {
  local root=$1
  mkdir -p "$root/srv/media" "$root/srv/documents"
  generate logs "$root/var/log/app.log" $((250 << 20)) 11
  generate random "$root/srv/media/films" $((120 << 20)) 12
  generate files "$root/srv/documents" $((150 << 20)) 13
  generate sqlite "$root/srv/items.db" 900000 14
}

# A disk with one partition from 1 MiB on: partitioned FILE BYTES TYPE
partitioned() {
  truncate -s "$2" "$1"
  sfdisk -q "$1" <<END
label: gpt
label-id: 5EED0000-0000-4000-8000-000000000001
start=2048, type=$3, uuid=5EED0000-0000-4000-8000-000000000002
END
}

# An ext4 file system of a folder's files, in a file from an offset on: ext4 FILE OFFSET KIB FOLDER
ext4() {
  mkfs.ext4 -q -F -U 5eed0000-0000-4000-8000-000000000003 -d "$4" \
    -E "hash_seed=5eed0000-0000-4000-8000-000000000004,lazy_itable_init=0,lazy_journal_init=0,offset=$2" "$1" "$3k"
}

LINUX=0FC63DAF-8483-4772-8E79-3D69D8477DE4
MICROSOFT=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7

image_of_tree() {
  partitioned "$1" 8G $LINUX
  ext4 "$1" $((1 << 20)) $((8 * 1024 * 1024 - 2048)) "$2"
}

make_a_and_e0() {
  local work=$1 release=$2
  note "A: installing programs"
  inside install "$release" "$work/a" "$work/sources.list" "${PROGRAMS_A[@]}"
  note "A: databases, logs, documents"
  inside database "$work/a" srv/database 42 1100000
  # E0's database is made by the same programs, then moved out of A.
  inside database "$work/a" srv/other 43 5500000
  mkdir "$work/e"
  mv "$work/a/srv/other" "$work/e/database"
  tree_a "$work/a"
  note "A and E0: making the images"
  image_of_tree "$work/A.raw" "$work/a"
  inside delete "$work/A.raw" "$work"
  truncate -s 2G "$work/E0.raw"
  ext4 "$work/E0.raw" 0 $((2 * 1024 * 1024)) "$work/e"
  rm -rf "$work/a" "$work/e"
}

make_c() {
  local work=$1 release=$2
  note "C: installing programs"
  inside install "$release" "$work/c" "$work/sources.list" "${PROGRAMS_C[@]}"
  tree_c "$work/c"
  note "C: making the image"
  image_of_tree "$work/C.raw" "$work/c"
  rm -rf "$work/c"
}

make_d() {
  local work=$1 release=$2
  note "D: files and image"
  mkdir -p "$work/d/mount"
  apt_unpack "$work/d/apt" "$release" libwine "$work/d/wine"
  truncate -s $((4094 << 20)) "$work/d/part.raw"
  mkntfs -q -Q -F -L Data -s 512 -H 255 -S 63 -p 2048 "$work/d/part.raw" >&2
  inside ntfs "$work/d/part.raw" "$work/d"
  partitioned "$work/D.raw" 4G $MICROSOFT
  dd if="$work/d/part.raw" of="$work/D.raw" bs=1M seek=1 conv=sparse,notrunc status=none
  rm -rf "$work/d"
}

inside_others() {
  make_c "$@"
  make_d "$@"
}

make_b() {
  note "B: upgrading and using a copy of A"
  cp --sparse=always "$1/A.raw" "$1/B.raw"
  inside churn "$1/B.raw" "$1" "$2"
  note "B: comparing with A"
  generate changed "$1/A.raw" "$1/B.raw" "$1/B.changed.json" 65536
}

make_e() {
  note "E: $CHANGED_PAGES pages change"
  cp --sparse=always "$1/E0.raw" "$1/E.raw"
  generate change-pages "$1/E.raw" $CHANGED_PAGES 41 >&2
  generate changed "$1/E0.raw" "$1/E.raw" "$1/E.changed.json" 65536
}

make_corpus() {
  local folder=$1 work=$1/work release others
  rm -rf "$work"
  rm -f "$folder"/*.raw "$folder"/*.json
  mkdir -p "$work/mount"
  release=$(debian_release)
  debian_source "$release" >"$work/sources.list"
  # C and D beside A: on two processors they take turns with A's waiting.
  inside others "$work" "$release" &
  others=$!
  # The whole namespace goes with its first process.
  # shellcheck disable=SC2064  # this process, now
  trap "kill -9 $others 2>/dev/null || true" EXIT
  make_a_and_e0 "$work" "$release"
  make_e "$work"
  make_b "$work" "$release"
  wait $others || die "C or D could not be made, see above"
  trap - EXIT
  mv "$work"/*.raw "$work"/*.changed.json "$folder"
  rm -rf "$work"
  note "manifest"
  generate manifest "$folder" $VERSION
}

main() {
  local folder=${1:-/var/tmp/nestling-vault-corpus}
  need_root "$@"
  [[ $folder != -* ]] || die "usage: scripts/vault-corpus.sh [DIR]"
  mkdir -p "$folder"
  folder=$(realpath "$folder")
  exec {lock}>"$folder/lock"
  flock "$lock"
  if ! generate complete "$folder" $VERSION; then
    PACKAGES+=("${CORPUS_PACKAGES[@]}")
    install_packages
    [ "$(df --output=avail -B1M "$folder" | tail -n 1)" -gt 25000 ] || die "$folder needs 25 GB of free space for a while"
    renice -n 10 $$ >/dev/null
    make_corpus "$folder"
  fi
  exec {lock}>&-
  say "Images are in $folder"
}

if [ "${1:-}" = --inside ]; then
  shift
  "inside_$1" "${@:2}"
else
  main "$@"
fi
