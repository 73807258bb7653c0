#!/usr/bin/env bash
# What ./bench measures of recovery: machines straight from the vault, files out of it, and lists of very many points.
# Sourced by bench-rows.sh.

RECOVER_VM=Recover
# The first line that systemd writes.
RECOVER_LINE='systemd\[1\]:|Welcome to .*Linux'

recover_prepare() {
  note "preparing a Debian machine, an XFS disk and their backups"
  head -c 12 /dev/urandom | base64 >"$WORK/recover-password"
  chmod 600 "$WORK/recover-password"
  nestling repository add Recover "$WORK/recover-vault" --password-file "$WORK/recover-password" >/dev/null
  nestling vm create $RECOVER_VM --image debian --start
  wait_for "agent of $RECOVER_VM" 300 timeout 60 "$NESTLING" vm exec $RECOVER_VM -- true
  nestling vm exec $RECOVER_VM -- sh -c 'dd if=/dev/urandom of=/root/one bs=1M count=1 2>/dev/null; sync'
  timeout 180 "$NESTLING" vm shutdown $RECOVER_VM
  timeout 600 "$NESTLING" backup run $RECOVER_VM >/dev/null
  # A disk in use may be read by nobody else; so that the copy is of the same bytes, the machine is off from here on.
  RECOVER_DISK=$(disk_of $RECOVER_VM)
  truncate -s 8G "$WORK/xfs.raw"
  mkfs.xfs -q "$WORK/xfs.raw"
  nestling vm create RecoverXfs --image pebble
  nestling vm drive add RecoverXfs "$WORK/xfs.raw"
  timeout 600 "$NESTLING" backup run RecoverXfs >/dev/null
}

has_line() { nestling console --log "$1" 2>/dev/null | grep -qE "$RECOVER_LINE"; }

# From a command that starts a machine to its first line of userland.
recover_started() {
  local side=$1 vm=$2 begun
  shift 2
  begun=$(now_ms)
  timeout 200 "$NESTLING" "$@" >/dev/null
  wait_for "first line of $vm" 200 has_line "$vm"
  record recover "$side" userland_ms $(($(now_ms) - begun))
}

# Straight from the vault, and from a disk of this host; then the disk is brought over, copied by qemu-img, and restored.
recover_boot() {
  local before node
  recover_started hand $RECOVER_VM vm start $RECOVER_VM
  nestling vm turn-off $RECOVER_VM 2>/dev/null
  recover_started ours Booted recover boot "$RECOVER_VM@newest" --name Booted
  # Until it has come to rest, as much of the processors is its own as it wants.
  wait_for "agent of Booted" 300 timeout 60 "$NESTLING" vm exec Booted -- true
  node=$(node_pid)
  before=$(family_cpu_ms "$node")
  timed timeout 900 "$NESTLING" recover finish Booted
  record recover ours moved_wall_ms "$WALL_MS"
  record recover ours moved_cpu_ms $(($(family_cpu_ms "$node") - before))
  # The same bytes, with the same guest at work beside it.
  timed sh -c 'qemu-img convert -O qcow2 "$0" "$1" && sync "$1"' "$RECOVER_DISK" "$WORK/recover-copy.qcow2"
  record recover hand moved_wall_ms "$WALL_MS"
  record recover hand moved_cpu_ms "$CPU_MS"
  rm "$WORK/recover-copy.qcow2"
  timed timeout 900 "$NESTLING" recover vm "$RECOVER_VM@newest" --name Copied
  record recover hand restored_wall_ms "$WALL_MS"
  nestling vm remove Copied --disks
  nestling vm turn-off Booted 2>/dev/null
  nestling vm remove Booted --disks
}

# The most memory that any of the node's readers has had.
readers_kib() {
  local pid
  for pid in $(pgrep -P "$(node_pid)"); do awk '/^VmHWM:/ {print $2}' "/proc/$pid/status" 2>/dev/null || true; done | sort -n | tail -n 1
}

# A node that knows nothing yet lists a directory, then takes a file.
recover_files() {
  local place
  nestling node stop
  nestling host >/dev/null
  place=$(nestling --json recover ls "$RECOVER_VM@newest" | jq -r 'select(.label == "nestling-debian") | .place')
  nestling node stop
  nestling host >/dev/null
  timed timeout 120 "$NESTLING" recover ls "$RECOVER_VM@newest" "${place}etc"
  record recover ours listed_wall_ms "$WALL_MS"
  rm -rf "$WORK/recover-out"
  mkdir "$WORK/recover-out"
  timed timeout 120 "$NESTLING" recover get "$RECOVER_VM@newest" "${place}root/one" "$WORK/recover-out"
  [ "$(stat -c %s "$WORK/recover-out/one")" = 1048576 ] || die "it is not the file that was asked for"
  record recover ours got_wall_ms "$WALL_MS"
  record recover ours reader_kib "$(readers_kib)"
}

# From nothing to the first listing of a volume that Linux reads in a machine.
recover_machine() {
  local place
  place=$(nestling --json recover ls RecoverXfs@newest | jq -rs '.[0].place')
  nestling node stop
  nestling host >/dev/null
  timed timeout 120 "$NESTLING" recover ls RecoverXfs@newest "$place"
  record recover ours machine_wall_ms "$WALL_MS"
}

# Points of a thousand machines, a hundred each, that the node knows already.
recover_catalogue() {
  timed timeout 600 "$NESTLING" --json backup points --repository Many --limit 50
  record recover ours first_look_wall_ms "$WALL_MS"
  timed timeout 60 "$NESTLING" --json backup points --repository Many --skip 50000 --limit 50
  record recover ours page_wall_ms "$WALL_MS"
  timed timeout 60 "$NESTLING" --json backup points 'machine-7?3' --repository Many --limit 50
  record recover ours search_wall_ms "$WALL_MS"
  record recover ours many_rss_kib "$(rss_kib "$(node_pid)")"
}

recover() {
  recover_prepare
  for RUN in $(seq "$RUNS"); do
    recover_boot
    recover_files
    recover_machine
    note "recovery, run $RUN of $RUNS: first line $(last recover ours userland_ms) ms, from a disk $(last recover hand userland_ms) ms;" \
      "moved in $(last recover ours moved_wall_ms) ms, copied in $(last recover hand moved_wall_ms) ms;" \
      "listed in $(last recover ours listed_wall_ms) ms"
  done
  printf 'correct horse\n' >"$WORK/many-password"
  chmod 600 "$WORK/many-password"
  nestling repository add Many "$WORK/many" --password-file "$WORK/many-password" >/dev/null
  for RUN in $(seq "$RUNS"); do
    nestling node stop
    nestling host >/dev/null
    recover_catalogue
    note "a hundred thousand points, run $RUN of $RUNS: a page $(last recover ours page_wall_ms) ms, a search $(last recover ours search_wall_ms) ms"
  done
  node_pid >"$WORK/node-pid"
  nestling vm remove $RECOVER_VM --disks
  nestling vm remove RecoverXfs --disks
  rm -rf "$WORK/recover-vault" "$WORK/many"
}
