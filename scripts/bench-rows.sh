#!/usr/bin/env bash
# What ./bench measures. Run by it inside the L0's network namespace, so that every command here, by Nestling or by
# hand, is the L0's own. Every figure is a line "run<TAB>row<TAB>side<TAB>metric<TAB>value" in $WORK/results.

set -Eeuo pipefail
trap 'printf "error: line %s of %s: %s\n" "$LINENO" "${BASH_SOURCE[0]}" "$BASH_COMMAND" >&2' ERR
export LC_ALL=C NO_COLOR=1
: "${NESTLING:?}" "${WORK:?}" "${IMAGES:?}" "${LAN:?}" "${RUNS:?}" "${ROWS:?}" "${NESTLING_HOME:?}"
TICK_MS=$((1000 / $(getconf CLK_TCK)))
HOST=$(readlink -f "$IMAGES/images/host")
PEBBLE=$(readlink -f "$IMAGES/images/pebble")
QBOOT=/usr/share/qemu/qboot.rom
# Nestling's guests are on the first cable to the outside, those made by hand on the second.
OURS=10.99.0
HAND=10.99.1
ANSWER_SECONDS=120
RUN=0

die() { printf 'error: %s\n' "$*" >&2; exit 1; }
note() { printf '  %s\n' "$*" >&2; }
record() { printf '%s\t%s\t%s\t%s\t%s\n' "$RUN" "$1" "$2" "$3" "$4" >>"$WORK/results"; }
now_ms() { printf '%s' "$((${EPOCHREALTIME/./} / 1000))"; }

# One line of PowerShell syntax, or one native command.
posh() { timeout 200 "$NESTLING" -c "$1"; }
nestling() { timeout 200 "$NESTLING" "$@"; }

# Field N of /proc/PID/stat. What a program calls itself may hold spaces; it ends at the last parenthesis.
stat_field() {
  local text fields
  text=$(cat "/proc/$1/stat" 2>/dev/null) || die "process $1 has ended"
  read -ra fields <<<"${text##*) }"
  printf '%s' "${fields[$(($2 - 3))]}"
}
# CPU time of a process so far; with its ended children, for one that starts tools.
cpu_ms() { printf '%s' $((($(stat_field "$1" 14) + $(stat_field "$1" 15)) * TICK_MS)); }
family_cpu_ms() { printf '%s' $(($(cpu_ms "$1") + ($(stat_field "$1" 16) + $(stat_field "$1" 17)) * TICK_MS)); }
# Exact where ticks are too coarse: what its threads that still run have used.
threads_cpu_us() { cat /proc/"$1"/task/*/schedstat | awk '{ns += $1} END {printf "%d", ns / 1000}'; }
rss_kib() { awk '/^VmRSS:/ {print $2}' "/proc/$1/status"; }
node_pid() { nestling --json node status | jq -r .pid; }

# Runs a command; its wall and CPU milliseconds are then in WALL_MS and CPU_MS.
timed() {
  local times
  TIMEFORMAT='%R %U %S'
  times=$({ time "$@" >/dev/null 2>"$WORK/said"; } 2>&1) || { cat "$WORK/said" >&2; die "failed: $*"; }
  read -r WALL_MS CPU_MS <<<"$(awk '{printf "%d %d", $1 * 1000 + .5, ($2 + $3) * 1000 + .5}' <<<"$times")"
}

wait_for() {
  local what=$1 seconds=$2 end said
  end=$(($(date +%s) + $2))
  shift 2
  until said=$("$@" 2>&1); do
    [ "$(date +%s)" -lt $end ] || { printf '%s\n' "$said" >&2; die "no $what within $seconds s"; }
    sleep 0.2
  done
}

end_process() {
  kill -9 "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  while [ -e "/proc/$1" ]; do sleep 0.02; done
}

# --- nested: from Start-VM L1 to the innermost guest's first answer -----------------------------------------------

# What /etc/node of the hand-made L1 is: the quickest way known from here to the same L2.
hand_script() {
  cat <<END
#!/bin/sh
/usr/bin/ip -batch - <<LINES
link add br0 type bridge
link set eth0 master br0
addr flush dev eth0
addr add $HAND.10/24 dev br0
link set br0 up
tuntap add t0 mode tap
link set t0 master br0
link set t0 up
LINES
# Waits until KVM can be loaded, as the image does.
/sbin/modprobe kvm-amd || /sbin/modprobe kvm-intel
read -r up idle < /proc/uptime
echo "hand: starts L2 at \$up s" > /dev/console
P=/var/lib/nestling/images/pebble
exec qemu-system-x86_64 -no-user-config -nodefaults -display none -accel kvm -machine q35,vmport=off,smm=off,graphics=off \\
  -cpu host -smp 1 -m 128 -bios $QBOOT -serial file:/run/l2.log \\
  -netdev tap,id=n,ifname=t0,script=no,downscript=no -device virtio-net-pci,netdev=n,mac=02:00:00:00:00:50,romfile= \\
  -kernel \$P/$(jq -r .kernel "$PEBBLE/image.json") -initrd \$P/initrd.cpio \\
  -append "$(jq -r .append "$PEBBLE/image.json") nestling.ip=$HAND.50/24"
END
}

engine_pid() {
  local file
  file=$(find "$NESTLING_HOME/run" -name pid -type f | head -n 1)
  [ -n "$file" ] && cat "$file"
}

# A disk of L1 whose node is replaced by the script of hand_script.
hand_disk() {
  nestling vm create hand --image host --memory 1GB --switch LAN --append "nestling.ip=$HAND.10/24"
  posh 'Start-VM hand'
  wait_for "agent in the hand-made L1" $ANSWER_SECONDS "$NESTLING" vm exec hand -- true
  hand_script >"$WORK/hand-node"
  nestling vm copy-in hand "$WORK/hand-node" /etc/node.new
  nestling vm exec hand -- sh -c 'chmod 755 /etc/node.new && mv /etc/node.new /etc/node && sync'
  posh 'Stop-VM hand'
  cp "$(disk_of hand)" "$WORK/hand.clean"
}

disk_of() { nestling --json vm show "$1" | jq -er '.drives[0].path'; }

nested_prepare() {
  note "preparing L1 and its L2"
  posh 'New-VMSwitch -Name LAN -NetAdapterName lan0' >&2
  nestling vm create L1 --image host --expose-extensions --memory 1GB --switch LAN --append "nestling.ip=$OURS.10/24"
  posh 'Set-VMNetworkAdapter -VMName L1 -MacAddressSpoofing On'
  posh 'Start-VM L1'
  wait_for "node inside L1" $ANSWER_SECONDS "$NESTLING" --in L1 vm list
  tr '\0' '\n' <"/proc/$(engine_pid)/cmdline" >"$WORK/l1.words"
  nestling --in L1 -c 'Install-WindowsFeature -Name Hyper-V' >&2
  nestling --in L1 -c 'New-VMSwitch -Name LAN -NetAdapterName eth0' >&2
  nestling --in L1 vm create L2 --image pebble --memory 128MB --switch LAN --start-action start \
    --append "nestling.ip=$OURS.50/24"
  # A machine that is saved when its host goes down would be resumed in every run, where the one by hand boots.
  nestling --in L1 -c 'Set-VM L2 -AutomaticStopAction ShutDown'
  # The first start also proves the engine; every later one remembers that.
  nestling --in L1 vm start L2
  first_answer $OURS
  wait "$PING" || die "no answer from L2 within $ANSWER_SECONDS s: $(nestling console L1/L2 --log | tail -n 3)"
  posh 'Stop-VM L1'
  L1_DISK=$(disk_of L1)
  cp "$L1_DISK" "$WORK/l1.clean"
  note "preparing the L1 that is started by hand"
  hand_disk
  ip -batch - <<<$'link add hand type bridge\nlink set lan1 master hand\nlink set hand up'
}

# Starts a ping outside that ends with L2's first answer; its process is then PING.
first_answer() {
  ip -n "$LAN" neigh flush all
  ip netns exec "$LAN" ping -q -i 0.1 -c 1 -w $ANSWER_SECONDS "$1.50" >/dev/null 2>&1 &
  PING=$!
}

nested_ours() {
  local node node_before begun began_tick engine
  cp "$WORK/l1.clean" "$L1_DISK"
  node=$(node_pid)
  first_answer $OURS
  node_before=$(family_cpu_ms "$node")
  began_tick=$(awk '{printf "%d", $1 * 1000}' /proc/uptime)
  begun=$(now_ms)
  timed "$NESTLING" -c 'Start-VM L1'
  wait $PING || die "no answer from Nestling's L2 within $ANSWER_SECONDS s: $(nestling console L1 --log | tail -n 3)"
  record nested ours wall_ms $(($(now_ms) - begun))
  engine=$(engine_pid)
  local engine_ms node_ms
  engine_ms=$(cpu_ms "$engine")
  node_ms=$(($(family_cpu_ms "$node") - node_before))
  record nested ours cpu_ms $((engine_ms + node_ms + CPU_MS))
  record nested ours engine_cpu_ms "$engine_ms"
  record nested ours node_cpu_ms "$node_ms"
  record nested ours cli_cpu_ms "$CPU_MS"
  record nested ours start_vm_wall_ms "$WALL_MS"
  record nested ours engine_at_ms $(($(stat_field "$engine" 22) * TICK_MS - began_tick))
  nested_phases "$(nestling console L1 --log)" ours
  local inside
  # shellcheck disable=SC2016  # L1's shell expands it.
  inside=$(nestling vm exec L1 -- sh -c 'read -r node </run/nestling-node.pid
    for p in $node $(pidof qemu-system-x86_64); do cut -d" " -f22 /proc/$p/stat; done; getconf CLK_TCK 2>/dev/null || echo 100')
  record nested ours l1_node_at_ms "$(sed -n 1p <<<"$inside")0"
  record nested ours l2_engine_at_ms "$(sed -n 2p <<<"$inside")0"
  record nested ours l2_up_ms "$(uptime_ms 'pebble: up' <<<"$(nestling console L1/L2 --log)")"
  nestling vm turn-off L1 2>/dev/null
}

# "WORDS 1.23 s" on a console, as milliseconds.
uptime_ms() { tr -d '\r' | sed -n "s/.*$1 \([0-9.]*\) s.*/\1/p" | awk 'NR == 1 {printf "%d", $1 * 1000}'; }
nested_phases() { record nested "$2" l1_up_ms "$(uptime_ms 'host: up' <<<"$1")"; }

# Words of Nestling's own command line for L1, so that both have the same processor and engine.
word_after() { awk -v want="$1" 'found {print; exit} $0 == want {found = 1}' "$WORK/l1.words"; }

nested_hand() {
  local begun tap_ms=0 engine
  cp "$WORK/hand.clean" "$WORK/hand.qcow2"
  first_answer $HAND
  begun=$(now_ms)
  timed ip -batch - <<<$'tuntap add hand-l1 mode tap\nlink set hand-l1 master hand\nlink set hand-l1 up'
  tap_ms=$CPU_MS
  qemu-system-x86_64 -no-user-config -nodefaults -display none -accel "$(word_after -accel)" \
    -machine q35,vmport=off,smm=off,graphics=off -cpu "$(word_after -cpu)" -smp 1 -m 1024 -bios $QBOOT \
    -kernel "$HOST/$(jq -r .kernel "$HOST/image.json")" -initrd "$HOST/$(jq -r .initrd "$HOST/image.json")" \
    -append "$(jq -r .append "$HOST/image.json") nestling.ip=$HAND.10/24" -serial "file:$WORK/hand.log" -pidfile "$WORK/hand.pid" \
    -netdev tap,id=n,ifname=hand-l1,script=no,downscript=no -device virtio-net-pci,netdev=n,mac=02:00:00:00:00:10,romfile= \
    -drive "if=none,id=d,file=$WORK/hand.qcow2,format=qcow2" -device virtio-blk-pci,drive=d 2>"$WORK/said" &
  engine=$!
  wait $PING || { cat "$WORK/said" "$WORK/hand.log" >&2; die "no answer from the hand-made L2 within $ANSWER_SECONDS s"; }
  record nested hand wall_ms $(($(now_ms) - begun))
  record nested hand engine_cpu_ms "$(cpu_ms $engine)"
  record nested hand cpu_ms $(($(cpu_ms $engine) + tap_ms))
  nested_phases "$(cat "$WORK/hand.log")" hand
  record nested hand l2_engine_at_ms "$(uptime_ms 'starts L2 at' <"$WORK/hand.log")"
  end_process $engine
  ip link del hand-l1
}

nested() {
  nested_prepare
  for RUN in $(seq "$RUNS"); do
    nested_ours
    nested_hand
    note "nested start, run $RUN of $RUNS: $(last nested ours wall_ms) ms, by hand $(last nested hand wall_ms) ms"
  done
}
last() { awk -F'\t' -v r="$1" -v s="$2" -v m="$3" '$2 == r && $3 == s && $4 == m {v = $5} END {print v}' "$WORK/results"; }

# --- network: two guests on one switch ----------------------------------------------------------------------------

# The pebble, with one more program: one guest sends zeros, the other counts what arrives in six seconds.
network_initrd() {
  local dir=$WORK/extra
  mkdir -p "$dir/etc"
  (cd "$dir" && cpio -idm --quiet etc/inittab <"$PEBBLE/initrd.cpio")
  echo '::once:/etc/bench' >>"$dir/etc/inittab"
  cat >"$dir/etc/bench" <<'END'
#!/bin/sh
exec > /dev/console 2>&1
read -r cmdline < /proc/cmdline
case $cmdline in
  *bench=send*) until nc 10.0.0.2 5001 < /dev/zero > /dev/null; do sleep 0.2; done; exit ;;
esac
# Its input must stay open: the sender ends when this side ends its own direction.
sleep 600 | nc -l -p 5001 > /dev/null &
bytes() { cat /sys/class/net/eth0/statistics/rx_bytes; }
ticks() { read -r up idle < /proc/uptime; echo "$up" | tr -d .; }
until [ "$(bytes)" -gt 50000000 ]; do sleep 0.2; done
bytes=$(bytes) ticks=$(ticks)
echo "bench: counting"
sleep 6
bytes=$(($(bytes) - bytes)) ticks=$(($(ticks) - ticks))
echo "bench: $((bytes / ticks / 10)) kB/s"
END
  chmod 755 "$dir/etc/bench"
  (cd "$dir" && printf 'etc\netc/inittab\netc/bench\n' | cpio -o -H newc --quiet) >"$WORK/extra.cpio"
  cat "$PEBBLE/initrd.cpio" "$WORK/extra.cpio" >"$WORK/network.cpio"
}

network_append() { printf '%s nestling.ip=10.0.0.%s/24 bench=%s' "$(jq -r .append "$PEBBLE/image.json")" "$1" "$2"; }

network_prepare() {
  note "preparing two guests and two networks"
  network_initrd
  posh 'New-VMSwitch -Name Net -SwitchType Private' >/dev/null
  local guest
  for guest in 1:send 2:count; do
    nestling vm create "Net-${guest#*:}" --kernel "$PEBBLE/$(jq -r .kernel "$PEBBLE/image.json")" \
      --initrd "$WORK/network.cpio" --memory 128MB --switch Net --append "$(network_append "${guest%:*}" "${guest#*:}")"
  done
  # Once, for the words that both have in common.
  nestling vm start Net-send
  tr '\0' '\n' <"/proc/$(engine_pid)/cmdline" >"$WORK/l1.words"
  nestling vm turn-off Net-send 2>/dev/null
  ip -batch - <<<$'link add plain type bridge\nlink set plain up'
}

ours_says() { nestling console Net-count --log; }
hand_says() { cat "$WORK/count.log"; }
counting() { "$1" | grep -F 'bench: counting' || { "$1"; false; }; }
counted() { "$1" | grep -F ' kB/s' || { "$1"; false; }; }

# Waits until the count is on, takes the engines' CPU time over four of its seconds, then the result.
network_measure() {
  local side=$1 begun before pid cpu=0 rate elapsed
  shift
  wait_for "traffic ($side)" 60 counting "${side}_says"
  begun=$(now_ms)
  for pid; do before=$(cpu_ms "$pid"); cpu=$((cpu - before)); done
  sleep 4
  for pid; do cpu=$((cpu + $(cpu_ms "$pid"))); done
  elapsed=$(($(now_ms) - begun))
  wait_for "result ($side)" 60 counted "${side}_says"
  rate=$("${side}_says" | tr -d '\r' | sed -n 's/^bench: \([0-9]*\) kB.s.*/\1/p')
  [ "${rate:-0}" -gt 0 ] || die "no throughput was counted ($side)"
  record network "$side" kb_per_s "$rate"
  record network "$side" cpu_ms_per_gb $((cpu * 1000000000 / elapsed / rate))
}

network_ours() {
  nestling vm start Net-count
  nestling vm start Net-send
  # shellcheck disable=SC2046  # one word for each engine
  network_measure ours $(cat "$NESTLING_HOME"/run/*/pid)
  nestling vm turn-off Net-send 2>/dev/null
  nestling vm turn-off Net-count 2>/dev/null
}

network_hand() {
  local pids=() guest role
  for guest in 2:count 1:send; do
    role=${guest#*:}
    ip -batch - <<<"tuntap add $role mode tap
link set $role master plain
link set $role up"
    qemu-system-x86_64 -no-user-config -nodefaults -display none -accel "$(word_after -accel)" \
      -machine q35,vmport=off,smm=off,graphics=off -cpu "$(word_after -cpu)" -smp 1 -m 128 -bios $QBOOT \
      -kernel "$PEBBLE/$(jq -r .kernel "$PEBBLE/image.json")" -initrd "$WORK/network.cpio" \
      -append "$(network_append "${guest%:*}" "$role")" -serial "file:$WORK/$role.log" -pidfile "$WORK/$role.pid" \
      -netdev "tap,id=n,ifname=$role,script=no,downscript=no" \
      -device "virtio-net-pci,netdev=n,mac=02:00:00:00:01:0${guest%:*},romfile=" 2>"$WORK/said" &
    pids+=($!)
  done
  network_measure hand "${pids[@]}"
  for pid in "${pids[@]}"; do end_process "$pid"; done
  ip link del count
  ip link del send
}

network() {
  network_prepare
  for RUN in $(seq "$RUNS"); do
    network_ours
    network_hand
    note "network, run $RUN of $RUNS: $(last network ours kb_per_s) kB/s, by hand $(last network hand kb_per_s) kB/s"
  done
}

# --- scale: a node with no machine and with a thousand ------------------------------------------------------------

scale_run() {
  local node before
  export NESTLING_HOME=$WORK/scale
  mkdir "$NESTLING_HOME"
  posh Get-VM
  node=$(node_pid)
  echo "$node" >"$WORK/node-pid"
  # What a start leaves to do is no part of being idle; helper threads end after ten seconds.
  sleep 12
  record scale ours idle_rss_kib "$(rss_kib "$node")"
  before=$(threads_cpu_us "$node")
  sleep 30
  record scale ours idle_cpu_us $(($(threads_cpu_us "$node") - before))
  before=$(family_cpu_ms "$node")
  # shellcheck disable=SC2016  # PowerShell's variable
  timed timeout 200 "$NESTLING" -c '1..1000 | ForEach-Object { New-VM -Name "Lab$_" -MemoryStartupBytes 64MB -NoVHD }'
  record scale ours create_wall_ms "$WALL_MS"
  record scale ours create_cpu_ms $((CPU_MS + $(family_cpu_ms "$node") - before))
  sleep 1
  scale_list "$node"
  record scale ours full_rss_kib "$(rss_kib "$node")"
  nestling node stop
  rm -r "$NESTLING_HOME"
  export NESTLING_HOME=$WORK/home
}

# Ten times, because one is shorter than the kernel's ticks.
scale_list() {
  local before wall=0 cpu=0 lines
  lines=$(posh Get-VM | grep -c Lab)
  [ "$lines" = 1000 ] || die "Get-VM showed $lines of 1000 machines"
  before=$(family_cpu_ms "$1")
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    timed timeout 200 "$NESTLING" -c Get-VM
    wall=$((wall + WALL_MS)) cpu=$((cpu + CPU_MS))
  done
  record scale ours list_wall_ms $((wall / 10))
  record scale ours list_cpu_ms $(((cpu + $(family_cpu_ms "$1") - before) / 10))
}

scale() {
  for RUN in $(seq "$RUNS"); do
    scale_run
    note "a thousand machines, run $RUN of $RUNS: created in $(last scale ours create_wall_ms) ms," \
      "listed in $(last scale ours list_wall_ms) ms"
  done
}

. "$(dirname "$0")/bench-capture.sh"
. "$(dirname "$0")/bench-recover.sh"

touch "$WORK/results"
# A node that would start while something is timed is started now.
nestling host >/dev/null
node_pid >"$WORK/node-pid"
for row in nested network capture recover; do
  case ,$ROWS, in *,$row,*) $row ;; esac
done
nestling --json host | jq -r 'if .engine then "\(.engine): \(.engine_reason)" else "not asked" end' >"$WORK/engine"
nestling node stop
case ,$ROWS, in *,scale,*) scale ;; esac
