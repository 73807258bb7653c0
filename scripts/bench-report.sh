#!/usr/bin/env bash
# Turns what ./bench measured into docs/benchmarks.md: fills the template's @@MARKS@@ with tables of medians.
# Usage: bench-report.sh RESULTS TEMPLATE; the rest comes from ./bench's environment.

set -euo pipefail
export LC_ALL=C
RESULTS=$1
TEMPLATE=$2
. "$(dirname "$0")/bench-vault-report.sh"

# The median of a metric; with a fourth argument, its smallest ("min") or largest ("max") value.
of() {
  awk -F'\t' -v r="$1" -v s="$2" -v m="$3" '$2 == r && $3 == s && $4 == m {print $5}' "$RESULTS" | sort -n |
    awk -v which="${4:-median}" '{v[NR] = $1} END {
      if (NR == 0) exit 1
      if (which == "min") print v[1]; else if (which == "max") print v[NR]
      else print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
calc() { awk "BEGIN {printf \"$1\", $2}"; }
seconds() { calc '%.2f' "($1) / 1000"; }
spread() { printf '%s (%s to %s)' "$(seconds "$(of "$@")")" "$(seconds "$(of "$@" min)")" "$(seconds "$(of "$@" max)")"; }
measured() { awk -F'\t' -v r="$1" '$2 == r {found = 1} END {exit !found}' "$RESULTS"; }
goal() { if awk "BEGIN {exit !($1)}"; then printf 'met'; else printf 'not met'; fi; }

nested() {
  local wall cpu
  wall=$(calc '%.2f' "$(of nested ours wall_ms) / $(of nested hand wall_ms)")
  cpu=$(calc '%.2f' "$(of nested ours cpu_ms) / $(of nested hand cpu_ms)")
  cat <<END
| | wall, s | CPU, s |
|---|---|---|
| Nestling | $(spread nested ours wall_ms) | $(spread nested ours cpu_ms) |
| by hand | $(spread nested hand wall_ms) | $(spread nested hand cpu_ms) |
| ratio (goal: at most 1.05) | $wall, $(goal "$wall <= 1.05") | $cpu |

Nestling's CPU seconds are those of the outermost QEMU ($(seconds "$(of nested ours engine_cpu_ms)")), of L0's node
($(seconds "$(of nested ours node_cpu_ms)")) and of the command ($(seconds "$(of nested ours cli_cpu_ms)")). Where the wall time goes, medians in seconds:

| step | Nestling | by hand |
|---|---|---|
| \`Start-VM L1\`: command to its end | $(seconds "$(of nested ours start_vm_wall_ms)") | |
| command to L1's QEMU process | $(seconds "$(of nested ours engine_at_ms)") | |
| L1's kernel begins to \`host: up\` | $(seconds "$(of nested ours l1_up_ms)") | $(seconds "$(of nested hand l1_up_ms)") |
| \`host: up\` to L2's QEMU process | $(seconds "$(of nested ours l2_engine_at_ms) - $(of nested ours l1_up_ms)") | $(seconds "$(of nested hand l2_engine_at_ms) - $(of nested hand l1_up_ms)") |
| the rest: firmware of L1, and L2 from its QEMU process to the answer | $(seconds "$(of nested ours wall_ms) - $(of nested ours l2_engine_at_ms)") | $(seconds "$(of nested hand wall_ms) - $(of nested hand l2_engine_at_ms)") |
END
}

network() {
  local rate cpu
  rate=$(calc '%.3f' "$(of network ours kb_per_s) / $(of network hand kb_per_s)")
  cpu=$(calc '%.3f' "$(of network ours cpu_ms_per_gb) / $(of network hand cpu_ms_per_gb)")
  cat <<END
| | MB/s | CPU, s per GB |
|---|---|---|
| Nestling | $(spread network ours kb_per_s) | $(spread network ours cpu_ms_per_gb) |
| plain bridge and taps | $(spread network hand kb_per_s) | $(spread network hand cpu_ms_per_gb) |
| ratio (goal: at least 0.97) | $rate, $(goal "$rate >= 0.97") | $cpu |
END
}

scale() {
  local list create idle full idle_cpu
  list=$(of scale ours list_wall_ms)
  create=$(of scale ours create_wall_ms)
  idle=$(calc '%.1f' "$(of scale ours idle_rss_kib) * 1.024 / 1000")
  full=$(calc '%.1f' "$(of scale ours full_rss_kib) * 1.024 / 1000")
  idle_cpu=$(of scale ours idle_cpu_us)
  cat <<END
| | median | CPU, s | goal | |
|---|---|---|---|---|
| \`Get-VM\` of 1,000 machines, whole process | $list ms ($(of scale ours list_wall_ms min) to $(of scale ours list_wall_ms max)) | $(calc '%.3f' "$(of scale ours list_cpu_ms) / 1000") | under 100 ms | $(goal "$list < 100") |
| 1,000 machines created by one command | $(seconds "$create") s ($(seconds "$(of scale ours create_wall_ms min)") to $(seconds "$(of scale ours create_wall_ms max)")) | $(seconds "$(of scale ours create_cpu_ms)") | under 10 s | $(goal "$create < 10000") |
| node's memory with 1,000 machines | $full MB | | under 100 MB | $(goal "$full < 100") |
| node's memory with none | $idle MB | | under 30 MB | $(goal "$idle < 30") |
| node's CPU time in 30 s with none | | $(calc '%.4f' "$idle_cpu / 1000000") | none measurable: under one tick, 0.01 | $(goal "$idle_cpu < 10000") |
END
}

# The MiB that were changed before a backup, as the rows were measured.
changes() { awk -F'\t' '$2 == "capture" && $4 ~ /^[0-9]+_wall_ms$/ {print $4 + 0}' "$RESULTS" | sort -nu; }
milliseconds() { calc '%.1f' "$(of "$@") / 1000"; }

capture_line() {
  local change=$1 side=$2 label=$3 latency=
  if of capture "$side" "${change}_p99_us" >/dev/null; then
    latency="$(milliseconds capture "$side" alone_p99_us), $(milliseconds capture "$side" "${change}_p99_us"), $(milliseconds capture "$side" "${change}_most_us" max)"
  fi
  printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$label" "$change MiB" "$(spread capture "$side" "${change}_wall_ms")" \
    "$(spread capture "$side" "${change}_cpu_ms")" "$(megabytes "$(of capture "$side" "${change}_read_bytes")")" \
    "$(megabytes "$(of capture "$side" "${change}_written_bytes")")" "$latency"
}

capture() {
  local change read seconds bytes
  cat <<END
| | changed | wall, s | CPU, s | read, MB | written, MB | p99 of a write alone, p99 meanwhile, longest meanwhile, ms |
|---|---|---|---|---|---|---|
END
  for change in $(changes); do
    capture_line "$change" ours Nestling
    capture_line "$change" hand "QEMU's job"
  done
  printf '\n| goal | Nestling | |\n|---|---|---|\n'
  for change in $(changes | grep -v '^0$'); do
    read=$(calc '%.3f' "$(of capture ours "${change}_read_bytes" max) / ($change * 1048576)")
    printf '| bytes read with %s MiB changed: at most 1.1 of them | %s | %s |\n' "$change" "$read" "$(goal "$read <= 1.1")"
  done
  seconds=$(seconds "$(of capture ours 0_wall_ms)")
  bytes=$(of capture ours 0_written_bytes max)
  printf '| nothing changed: under 2 s | %s s | %s |\n' "$seconds" "$(goal "$seconds < 2")"
  printf '| nothing changed: under 200 KB written | %s KB | %s |\n' "$(calc '%.1f' "$bytes / 1000")" "$(goal "$bytes < 200000")"
}

recover() {
  local userland moved listed got machine page search reader
  userland=$(calc '%.2f' "$(of recover ours userland_ms) / $(of recover hand userland_ms)")
  moved=$(calc '%.2f' "$(of recover hand restored_wall_ms) / $(of recover ours moved_wall_ms)")
  listed=$(of recover ours listed_wall_ms)
  got=$(of recover ours got_wall_ms)
  reader=$(calc '%.0f' "$(of recover ours reader_kib max) * 1.024 / 1000")
  machine=$(of recover ours machine_wall_ms)
  page=$(of recover ours page_wall_ms)
  search=$(of recover ours search_wall_ms)
  cat <<END
| | from the vault, s | peer, s | goal | |
|---|---|---|---|---|
| instant boot: command to the first line of userland | $(spread recover ours userland_ms) | from a qcow2 of this host $(spread recover hand userland_ms) | at most 1.3 times the peer | $userland, $(goal "$userland <= 1.3") |
| its disk brought over while it runs | $(spread recover ours moved_wall_ms) | the same disk copied out of the vault by \`recover vm\` $(spread recover hand restored_wall_ms) | at least 0.8 of the peer's speed | $moved, $(goal "$moved >= 0.8") |
| for comparison, a disk of this host copied | | \`qemu-img convert\` $(spread recover hand moved_wall_ms) | | |
| CPU seconds of bringing it over, and of that | $(spread recover ours moved_cpu_ms) | $(spread recover hand moved_cpu_ms) | | |
| first listing of a directory in an 8 GiB disk (ext4), nothing known | $(spread recover ours listed_wall_ms) | | under 2 s | $(goal "$listed < 2000") |
| a file of 1 MiB after that | $(spread recover ours got_wall_ms) | | under 1 s | $(goal "$got < 1000") |
| memory of the reader, most | $reader MB | | below 256 MB | $(goal "$reader < 256") |
| first listing of a volume that a machine mounts (XFS), its start included | $(spread recover ours machine_wall_ms) | | under 15 s | $(goal "$machine < 15000") |
| 100,000 points of 1,000 machines: a page | $page ms ($(of recover ours page_wall_ms min) to $(of recover ours page_wall_ms max)) | | under 200 ms | $(goal "$page < 200") |
| 100,000 points: machines by name | $search ms ($(of recover ours search_wall_ms min) to $(of recover ours search_wall_ms max)) | | under 200 ms | $(goal "$search < 200") |
| 100,000 points: the first look of a new node | $(spread recover ours first_look_wall_ms) | | | |
| memory of the node that knows 100,000 points | $(calc '%.0f' "$(of recover ours many_rss_kib max) * 1.024 / 1000") MB | | | |
END
}

# How often each figure was measured.
runs() {
  awk -F'\t' '!/\tfacts?\t|_facts\t/ {n[$2 FS $3 FS $4]++} END {
    for (k in n) { if (!min || n[k] < min) min = n[k]; if (n[k] > max) max = n[k] }
    print (min == max ? max : min " to " max) (max == 1 ? " run" : " runs") " of each" }' "$RESULTS"
}

about() {
  local processor memory
  processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
  memory=$(awk '/^MemTotal:/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)
  cat <<END
| | |
|---|---|
| command | \`${COMMAND_LINE:?}\`, $(runs), ${SECONDS_TAKEN:?} s |
| date | $(date -u +%Y-%m-%d), commit $(git -C "$(dirname "$TEMPLATE")" rev-parse --short HEAD 2>/dev/null || echo unknown) |
| machine | $(nproc) processors ($processor), $memory |
| load before it began | $LOAD |
| system | $(. /etc/os-release && echo "$PRETTY_NAME"), kernel $(uname -r) |
| QEMU | $(qemu-system-x86_64 --version | sed -n '1s/QEMU emulator version //p') |
| engine of L0 | $(cat "$(dirname "$RESULTS")/engine" 2>/dev/null || echo "not asked") |
END
}

while IFS= read -r line; do
  case $line in
    @@ABOUT@@) about ;;
    @@NESTED@@ | @@NETWORK@@ | @@SCALE@@ | @@CAPTURE@@ | @@RECOVER@@ | @@VAULT_*@@)
      row=${line//@/}
      if measured "${row,,}"; then "${row,,}"; else echo "Not measured in this run."; fi
      ;;
    *) printf '%s\n' "$line" ;;
  esac
done <"$TEMPLATE"
