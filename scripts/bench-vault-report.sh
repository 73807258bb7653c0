# shellcheck shell=bash
# The vault's tables in docs/benchmarks-vault.md, one function for each of its rows. Sourced by bench-report.sh.

# The sides that have a metric, in the order of the peers' list: "ours" first.
sides() {
  local side
  while IFS=$'\t' read -r side _; do
    if of "$1" "$side" "$2" >/dev/null; then printf '%s\n' "$side"; fi
  done <"$(dirname "$RESULTS")/peers"
}
label() { awk -F'\t' -v side="$1" '$1 == side {print $2}' "$(dirname "$RESULTS")/peers"; }
is_measured() { of "$1" "$2" "$3" >/dev/null; }

# The peer with the smallest median of a metric, Nestling aside.
best() {
  local side
  for side in $(sides "$1" "$2"); do
    if [ "$side" != ours ]; then printf '%s %s\n' "$(of "$1" "$side" "$2")" "$side"; fi
  done | sort -g | awk 'NR == 1 {print $2}'
}

# A figure in the unit of its metric: seconds, MB, milliseconds of microseconds; empty where it was not measured.
shown() {
  is_measured "$1" "$2" "$3" || return 0
  case $3 in
    *_ms) spread "$@" ;;
    *_kib) calc '%.0f' "$(of "$@" max) * 1.024 / 1000" ;;
    *_bytes) megabytes "$(of "$@")" ;;
    *_us) calc '%.2f' "$(of "$@") / 1000" ;;
  esac
}
megabytes() { calc '%.1f' "($1) / 1000000"; }

# One line for each side: its label, then the metrics that are named.
figures() {
  local row=$1 side metric
  shift
  for side in $(sides "$row" "$1"); do
    printf '| %s |' "$(label "$side")"
    for metric; do printf ' %s |' "$(shown "$row" "$side" "$metric")"; done
    printf '\n'
  done
}

GOALS='| goal | Nestling | best peer | ratio | |
|---|---|---|---|---|'

# A goal against the best peer: versus TEXT ROW METRIC LIMIT; the ratio must not be above LIMIT.
versus() {
  local peer ratio
  peer=$(best "$2" "$3")
  [ -n "$peer" ] || return 0
  if is_measured "$2" ours "$3"; then
    ratio=$(calc '%.3f' "$(of "$2" ours "$3") / $(of "$2" "$peer" "$3")")
    printf '| %s | %s | %s, %s | %s | %s |\n' "$1" "$(shown "$2" ours "$3")" "$(shown "$2" "$peer" "$3")" "$(label "$peer")" \
      "$ratio" "$(goal "$ratio <= $4")"
  else
    printf '| %s | | %s, %s | | not measured |\n' "$1" "$(shown "$2" "$peer" "$3")" "$(label "$peer")"
  fi
}

# A goal with a limit of its own: within TEXT ROW METRIC LIMIT, the limit in the metric's unit.
within() {
  is_measured "$2" ours "$3" || return 0
  printf '| %s | %s | | | %s |\n' "$1" "$(shown "$2" ours "$3")" "$(goal "$(of "$2" ours "$3") <= $4")"
}

# The largest memory of a row stays below 256 MB, as everywhere.
memory() {
  is_measured "$1" ours "$2" || return 0
  printf '| memory below 256 MB%s | %s MB | | | %s |\n' "${3:-}" "$(shown "$1" ours "$2")" \
    "$(goal "$(of "$1" ours "$2" max) * 1024 < 256000000")"
}

fact_of() { of vault_facts corpus "$1"; }

vault_facts() {
  local name text
  for name in A B C D E; do text="${text:-}, $name $(megabytes "$(fact_of "${name,}_used_bytes")") MB"; done
  printf 'In units of 64 KiB that are not zero, the images hold: %s.\n' "${text#, }"
  printf 'B differs from A in %s MB and E from its base in %s MB, in the same units.\n' \
    "$(megabytes "$(fact_of b_changed_bytes)")" "$(megabytes "$(fact_of e_changed_bytes)")"
}

# How busy the processors are during a save of A, percent.
busy() {
  local side=$1
  calc '%.0f' "100 * $(of vault_full "$side" cpu_ms) / $(of vault_full "$side" wall_ms) / $(fact_of processors)"
}

vault_full() {
  local side
  printf '| | A: CPU, s | wall, s | processors busy, %% | B: CPU, s | wall, s | C: CPU, s | memory, MB |\n|---|---|---|---|---|---|---|---|\n'
  for side in $(sides vault_full cpu_ms); do
    printf '| %s | %s | %s | %s | %s | %s | %s | %s |\n' "$(label "$side")" "$(shown vault_full "$side" cpu_ms)" \
      "$(shown vault_full "$side" wall_ms)" "$(busy "$side")" "$(shown vault_full "$side" again_cpu_ms)" \
      "$(shown vault_full "$side" again_wall_ms)" "$(shown vault_full "$side" other_cpu_ms)" "$(shown vault_full "$side" rss_kib)"
  done
  printf '\n%s\n' "$GOALS"
  versus "A: CPU seconds below the best peer" vault_full cpu_ms 1
  versus "A: wall seconds below the best peer" vault_full wall_ms 1
  versus "B: CPU seconds below half of the best peer" vault_full again_cpu_ms 0.5
  memory vault_full rss_kib
  if measured vault_parts && is_measured vault_full ours cpu_ms; then parts_line; fi
  printf '\nRepository, MB:\n\n| | A | A, B | A, B, C |\n|---|---|---|---|\n'
  figures vault_full repo_a_bytes repo_b_bytes repo_c_bytes
  printf '\n%s\n' "$GOALS"
  versus "A, B, C: at most 1.02 of the smallest peer" vault_full repo_c_bytes 1.02
}

# A full save against its parts, each measured alone on the same data.
parts_line() {
  local sum whole part
  sum=$(awk -F'\t' '$2 == "vault_parts" {print $4}' "$RESULTS" | sort -u |
    while read -r part; do of vault_parts ours "$part"; done | awk '{sum += $1} END {print sum}')
  whole=$(of vault_full ours cpu_ms)
  printf '| A: CPU seconds within 1.25 of the sum of the parts (%s s) | %s | | %s | %s |\n' "$(seconds "$sum")" \
    "$(seconds "$whole")" "$(calc '%.2f' "$whole / $sum")" "$(goal "$whole <= 1.25 * $sum")"
}

vault_changed() {
  local name side metric
  printf '| | B: CPU, s | wall, s | read, MB | grows by, MB | E: CPU, s | wall, s | read, MB | grows by, MB | memory, MB |\n'
  printf '|---|---|---|---|---|---|---|---|---|---|\n'
  for side in $(sides vault_changed e_cpu_ms); do
    printf '| %s |' "$(label "$side")"
    for metric in b_cpu_ms b_wall_ms b_read_bytes b_growth_bytes e_cpu_ms e_wall_ms e_read_bytes e_growth_bytes e_rss_kib; do
      printf ' %s |' "$(shown vault_changed "$side" $metric)"
    done
    printf '\n'
  done
  printf '\n%s\n' "$GOALS"
  if [ -n "$(best vault_changed b_wall_ms)" ]; then
    versus "B: wall below 1/10 of the best peer" vault_changed b_wall_ms 0.1
  else
    again_line
  fi
  versus "E: wall below 1/10 of the best peer" vault_changed e_wall_ms 0.1
  is_measured vault_changed ours b_read_bytes || return 0
  within "B: reads at most 1.5 of the changed bytes" vault_changed b_read_bytes "1.5 * $(fact_of b_changed_bytes)"
  for name in b e; do
    within "${name^}: metadata at most 1 % of the changed bytes and 100 KB" vault_changed ${name}_metadata_bytes \
      "0.01 * $(fact_of ${name}_changed_bytes) + 100000"
  done
  memory vault_changed e_rss_kib
}

# B with changed extents against the peers' reading of all of B.
again_line() {
  local peer ours
  peer=$(best vault_full again_wall_ms)
  is_measured vault_changed ours b_wall_ms && [ -n "$peer" ] || return 0
  ours=$(of vault_changed ours b_wall_ms)
  printf '| B: wall below 1/10 of the best peer | %s | %s, %s | %s | %s |\n' "$(shown vault_changed ours b_wall_ms)" \
    "$(shown vault_full "$peer" again_wall_ms)" "$(label "$peer")" "$(calc '%.3f' "$ours / $(of vault_full "$peer" again_wall_ms)")" \
    "$(goal "$ours <= 0.1 * $(of vault_full "$peer" again_wall_ms)")"
}

vault_sizes() {
  local size step metric
  printf '| disk | save | CPU, s | wall, s | read, MB | repository grows, MB | metadata, MB | memory, MB |\n|---|---|---|---|---|---|---|---|\n'
  for step in full changed; do
    for size in 1G 1T; do
      printf '| %siB | %s |' "$size" "$step"
      for metric in cpu_ms wall_ms read_bytes growth_bytes metadata_bytes rss_kib; do
        printf ' %s |' "$(shown vault_sizes ours ${step}_${size}_$metric)"
      done
      printf '\n'
    done
  done
}

vault_restore() {
  printf '| | wall, s | CPU, s | memory, MB |\n|---|---|---|---|\n'
  figures vault_restore wall_ms cpu_ms rss_kib
  printf '\n%s\n' "$GOALS"
  versus "wall below the best peer" vault_restore wall_ms 1
  versus "CPU seconds below the best peer" vault_restore cpu_ms 1
  memory vault_restore rss_kib
}

vault_random() {
  printf '| | cold p50, ms | p99 | new p50 | p99 | warm p50 | p99 | CPU of the server, s | memory, MB |\n|---|---|---|---|---|---|---|---|---|\n'
  figures vault_random cold_p50_us cold_p99_us new_p50_us new_p99_us warm_p50_us warm_p99_us cpu_ms rss_kib
  printf '\n%s\n' "$GOALS"
  versus "cold p50 below the best peer" vault_random cold_p50_us 1
  within "cold p50 under 0.7 ms" vault_random cold_p50_us 700
  within "cold p99 under 7 ms" vault_random cold_p99_us 7000
  within "warm p50 under 0.1 ms" vault_random warm_p50_us 100
  memory vault_random rss_kib
}

vault_sequential() {
  local side used rate
  used=$(fact_of a_used_bytes)
  printf '| | MB/s of data | MB/s per processor of the server | memory, MB |\n|---|---|---|---|\n'
  for side in $(sides vault_sequential wall_ms); do
    printf '| %s | %s | %s | %s |\n' "$(label "$side")" "$(calc '%.0f' "$used / $(of vault_sequential "$side" wall_ms) / 1000")" \
      "$(calc '%.0f' "$used / ($(of vault_sequential "$side" server_cpu_ms) + 1) / 1000")" \
      "$(shown vault_sequential "$side" server_rss_kib)"
  done
  is_measured vault_sequential ours server_cpu_ms || return 0
  printf '\n%s\n' "$GOALS"
  rate=$(calc '%.0f' "$used / ($(of vault_sequential ours server_cpu_ms) + 1) / 1000")
  printf '| 400 MB/s per processor of the server | %s | | | %s |\n' "$rate" "$(goal "$rate >= 400")"
  versus "wall below the best peer" vault_sequential wall_ms 1
  memory vault_sequential server_rss_kib
}

vault_verify() {
  printf '| | wall, s | CPU, s | memory, MB |\n|---|---|---|---|\n'
  figures vault_verify wall_ms cpu_ms rss_kib
  printf '\n%s\n' "$GOALS"
  versus "wall below the best peer" vault_verify wall_ms 1
  versus "CPU seconds below the best peer" vault_verify cpu_ms 1
  memory vault_verify rss_kib
}

vault_prune() {
  printf '| | wall, s | CPU, s | repository before, MB | after, MB | memory, MB |\n|---|---|---|---|---|---|\n'
  figures vault_prune wall_ms cpu_ms repo_before_bytes repo_after_bytes rss_kib
  printf '\n%s\n' "$GOALS"
  versus "wall below the best peer" vault_prune wall_ms 1
  versus "CPU seconds below the best peer" vault_prune cpu_ms 1
  memory vault_prune rss_kib
}
