# shellcheck shell=bash
# Incremental backups of a machine that runs, beside those that QEMU makes itself. Sourced by bench-rows.sh.
#
# Two pebbles with one more program, a disk of the same bytes each: one is Nestling's, one was started by hand.

CAPTURE_DISK_MIB=${NESTLING_BENCH_CAPTURE_MIB:-8192}
# Written before the first backup, and changed before the later ones, each as 1 MiB at a time spread over the disk.
CAPTURE_FILLED_MIB=$((CAPTURE_DISK_MIB / 4))
CAPTURE_CHANGES=(0 $((CAPTURE_DISK_MIB * 100 / 8192)) $((CAPTURE_DISK_MIB / 8)))
CAPTURE_SECONDS=5
SCRIPTS=$(realpath "$(dirname "${BASH_SOURCE[0]}")")

capture_ours() { timeout 300 "$NESTLING" vm exec --timeout 280 Capture -- sh -c "$1"; }
capture_hand() { timeout 300 "$SCRIPTS/bench_qemu.py" exec "$WORK/hand-agent" "$1"; }
capture_qemu() { timeout 600 "$SCRIPTS/bench_qemu.py" "$1" "$WORK/hand-qmp" "$2"; }

capture_initrd() {
  local dir=$WORK/capture-extra
  mkdir -p "$dir/usr/bin"
  gcc -O2 -static -o "$dir/usr/bin/bench-writes" "$SCRIPTS/bench-writes.c"
  strip "$dir/usr/bin/bench-writes"
  (cd "$dir" && echo usr/bin/bench-writes | cpio -o -H newc --quiet) >"$WORK/capture-extra.cpio"
  cat "$PEBBLE/initrd.cpio" "$WORK/capture-extra.cpio" >"$WORK/capture.cpio"
}

capture_prepare() {
  note "preparing two guests with ${CAPTURE_FILLED_MIB} MiB in a disk of $CAPTURE_DISK_MIB MiB"
  local kernel append
  kernel=$PEBBLE/$(jq -r .kernel "$PEBBLE/image.json")
  append=$(jq -r .append "$PEBBLE/image.json")
  capture_initrd
  nestling vm create Capture --kernel "$kernel" --initrd "$WORK/capture.cpio" --memory 128MB --append "$append"
  nestling disk create "$WORK/capture.qcow2" --size "${CAPTURE_DISK_MIB}MB"
  nestling vm drive add Capture "$WORK/capture.qcow2"
  nestling vm start Capture
  wait_for "agent of Capture" $ANSWER_SECONDS capture_ours 'test -b /dev/vda'
  CAPTURE_ENGINE=$(engine_pid)
  tr '\0' '\n' <"/proc/$CAPTURE_ENGINE/cmdline" >"$WORK/l1.words"
  capture_ours "bench-writes fill /dev/vda 1 $CAPTURE_FILLED_MIB"
  nestling vm turn-off Capture 2>/dev/null
  cp --sparse=always "$WORK/capture.qcow2" "$WORK/hand-disk.qcow2"
  nestling vm start Capture
  wait_for "agent of Capture" $ANSWER_SECONDS capture_ours 'test -b /dev/vda'
  CAPTURE_ENGINE=$(engine_pid)
  head -c 12 /dev/urandom | base64 >"$WORK/capture-password"
  chmod 600 "$WORK/capture-password"
  nestling repository add Capture "$WORK/capture-vault" --password-file "$WORK/capture-password" >/dev/null
  timeout 1200 "$NESTLING" backup run Capture --crash-consistent >/dev/null
  capture_hand_start "$kernel" "$append"
}

capture_hand_start() {
  qemu-system-x86_64 -no-user-config -nodefaults -display none -accel "$(word_after -accel)" \
    -machine q35,vmport=off,smm=off,graphics=off -cpu "$(word_after -cpu)" -smp 1 -m 128 -bios $QBOOT \
    -kernel "$1" -initrd "$WORK/capture.cpio" -append "$2" -serial "file:$WORK/hand-capture.log" -pidfile "$WORK/hand-capture.pid" \
    -blockdev "{\"driver\":\"qcow2\",\"node-name\":\"disk\",\"discard\":\"unmap\",\"file\":{\"driver\":\"file\",\"filename\":\"$WORK/hand-disk.qcow2\",\"discard\":\"unmap\"}}" \
    -device virtio-blk-pci,drive=disk -qmp "unix:$WORK/hand-qmp,server=on,wait=off" -device virtio-serial-pci \
    -chardev "socket,id=agent,path=$WORK/hand-agent,server=on,wait=off" \
    -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0 2>"$WORK/said" &
  CAPTURE_HAND=$!
  wait_for "agent of the guest started by hand" $ANSWER_SECONDS capture_hand 'test -b /dev/vda'
  qemu-img create -q -f qcow2 "$WORK/hand-full.qcow2" "${CAPTURE_DISK_MIB}M"
  capture_qemu full "$WORK/hand-full.qcow2"
}

# The guest of SIDE writes small blocks until capture_written.
capture_writing() {
  "capture_$1" "touch /tmp/go; rm -f /tmp/times; (bench-writes latency /dev/vda $2 /tmp/go > /tmp/now && mv /tmp/now /tmp/times) > /dev/null 2>&1 &"
}

# Records how long its writes took, as metrics that begin with NAME.
capture_written() {
  local side=$1 name=$2 count median p99 most
  "capture_$side" 'rm -f /tmp/go'
  wait_for "the times of its writes ($side)" 30 "capture_$side" 'test -s /tmp/times'
  read -r count median p99 most <<<"$("capture_$side" 'cat /tmp/times')"
  record capture "$side" "${name}_writes" "$count"
  record capture "$side" "${name}_median_us" "$median"
  record capture "$side" "${name}_p99_us" "$p99"
  record capture "$side" "${name}_most_us" "$most"
}

capture_alone() {
  capture_writing "$1" $((RUN * 100 + 1))
  sleep $CAPTURE_SECONDS
  capture_written "$1" alone
}

# One incremental backup by Nestling, of CHANGE MiB.
capture_run_ours() {
  local change=$1 node before stored
  node=$(node_pid)
  stored=$(du -sb "$WORK/capture-vault" | cut -f1)
  before=$(($(family_cpu_ms "$node") + $(cpu_ms "$CAPTURE_ENGINE")))
  timed sh -c 'timeout 1200 "$0" --json backup run Capture --crash-consistent >"$1"' "$NESTLING" "$WORK/capture-run"
  record capture ours "${change}_wall_ms" "$WALL_MS"
  record capture ours "${change}_cpu_ms" $(($(family_cpu_ms "$node") + $(cpu_ms "$CAPTURE_ENGINE") - before + CPU_MS))
  record capture ours "${change}_read_bytes" "$(jq '.machines[0].disks[0].read_bytes' "$WORK/capture-run")"
  record capture ours "${change}_written_bytes" $(($(du -sb "$WORK/capture-vault" | cut -f1) - stored))
  [ "$(jq -r '.machines[0].disks[0].reading' "$WORK/capture-run")" = Changes ] || die "it was not by what changed: $(cat "$WORK/capture-run")"
}

# One by QEMU, to an image of its own over the full one.
capture_run_hand() {
  local change=$1 before target=$WORK/hand-incremental.qcow2
  before=$(cpu_ms "$CAPTURE_HAND")
  # shellcheck disable=SC2016  # the inner shell expands it.
  timed sh -c 'qemu-img create -q -f qcow2 -b "$1" -F qcow2 "$2" && timeout 1200 "$0" incremental "$3" "$2" >"$4" && sync "$2"' \
    "$SCRIPTS/bench_qemu.py" "$WORK/hand-full.qcow2" "$target" "$WORK/hand-qmp" "$WORK/hand-read"
  record capture hand "${change}_wall_ms" "$WALL_MS"
  record capture hand "${change}_cpu_ms" $(($(cpu_ms "$CAPTURE_HAND") - before + CPU_MS))
  record capture hand "${change}_read_bytes" "$(cat "$WORK/hand-read")"
  record capture hand "${change}_written_bytes" $(($(stat -c %b "$target") * 512))
  rm "$target"
}

# One row of one side: what changed, then the backup, with the guest writing meanwhile unless nothing changes.
capture_row() {
  local side=$1 change=$2 seed=$((RUN * 100 + 10 + $2))
  if [ "$change" = 0 ]; then
    "capture_run_$side" 0
    return
  fi
  "capture_$side" "bench-writes fill /dev/vda $seed $change"
  capture_writing "$side" $((seed + 1))
  "capture_run_$side" "$change"
  capture_written "$side" "$change"
}

capture() {
  capture_prepare
  local side change
  for RUN in $(seq "$RUNS"); do
    for side in ours hand; do
      capture_alone $side
      # What it wrote is not of the first row.
      if [ $side = ours ]; then nestling backup run Capture --crash-consistent >/dev/null; else
        capture_run_hand settled
      fi
    done
    for change in "${CAPTURE_CHANGES[@]}"; do
      for side in ours hand; do capture_row $side "$change"; done
      note "backup of $change MiB, run $RUN of $RUNS: $(last capture ours "${change}_wall_ms") ms," \
        "by QEMU $(last capture hand "${change}_wall_ms") ms"
    done
  done
  end_process "$CAPTURE_HAND"
  nestling vm turn-off Capture 2>/dev/null
  nestling vm remove Capture
  rm -rf "$WORK/capture-vault" "$WORK"/hand-*.qcow2 "$WORK/capture.qcow2"
}
