#!/usr/bin/env bash
# Feeds what parses hostile input with rubbish that grows by coverage.
#
#   scripts/fuzz.sh [-j N] [SECONDS] [TARGET...]
#
# Each target for a minute, or those named of fuzz/fuzz_targets; N at once, or as many as there are processors. Ends
# with a table on standard output, one line for each target, and fails when something was found. What was found is
# in fuzz/target/artifacts, the inputs that led somewhere new in fuzz/target/corpus, what was said in fuzz/target/logs.
#
# Needs no nightly Rust: the compiler's coverage pass and libFuzzer's driver are enough to find panics, broken
# promises (the targets assert them), too much memory, and hangs. FUZZ_RANDOM makes it try the same again.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

JOBS=$(nproc)
while getopts j: option; do
  case $option in
    j) JOBS=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
SECONDS_EACH=${1:-60}
shift $(($# > 0))
TARGETS=("$@")
if [ ${#TARGETS[@]} = 0 ]; then
  for file in fuzz_targets/*.rs; do TARGETS+=("$(basename "$file" .rs)"); done
fi

TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"

build() {
  local arguments=() target
  for target in "${TARGETS[@]}"; do
    arguments+=(--bin "$target")
    [ "$target" != script ] || arguments+=(--features script)
  done
  echo "== building ${#TARGETS[@]} targets" >&2
  # With the target given, build scripts and macros are built without those flags.
  cargo build --quiet --locked --target "$TRIPLE" "${arguments[@]}"
}

# What begins right, where the target does not write it itself (fuzz/src/lib.rs).
seed() {
  case $1 in
    saved_state) cp ../crates/hypervisor/tests/stored/saved-head target/corpus/saved_state/ ;;
    disk)
      [ -e target/corpus/disk/child ] || ! command -v qemu-img >/dev/null ||
        qemu-img create -q -u -f qcow2 -F raw -b /dev/null -o cluster_size=512 target/corpus/disk/child 1M
      ;;
    script) cp ../walkthrough/*.ps1 target/corpus/script/ ;;
  esac
}

run() {
  local target=$1 log=target/logs/$1 status=0
  mkdir -p "target/corpus/$target" "target/artifacts/$target"
  seed "$target"
  # Why it failed is the last that is said: no backtrace may push it out.
  RUST_BACKTRACE=0 FUZZ_SEEDS=target/corpus/$target "${CARGO_TARGET_DIR:-target}/$TRIPLE/debug/$target" \
    -max_total_time="$SECONDS_EACH" -timeout=20 -rss_limit_mb=1024 -print_final_stats=1 \
    ${FUZZ_RANDOM:+-seed="$FUZZ_RANDOM"} -artifact_prefix="target/artifacts/$target/" "target/corpus/$target" >"$log" 2>&1 || status=$?
  echo "$status" >"$log.status"
}

# One line: the target, its executions and features, and what came of it.
report() {
  local target=$1 log=target/logs/$1 executions features result=nothing
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  features=$(sed -n 's/.* ft: \([0-9]*\).*/\1/p' "$log" | tail -1)
  if [ "$(cat "$log.status")" != 0 ]; then
    FOUND=1
    result=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    result="FOUND: ${result:+fuzz/$result, }see fuzz/$log"
    grep -v '^#' "$log" | tail -40 >&2
    # So that it can be tried elsewhere: `base64 -d | unxz` gives the input back.
    [ ! -e "${result%%, *}" ] || { echo "input of $target, packed:" && xz -9c "${result%%, *}" | base64 -w 160 | head -c 20000; } >&2
  fi
  printf '%-12s %12s %9s  %s\n' "$target" "${executions:-?}" "${features:-?}" "$result"
}

build
mkdir -p target/logs
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
for target in "${TARGETS[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
  echo "== $target for $SECONDS_EACH s" >&2
  run "$target" &
done
wait

FOUND=0
printf '%-12s %12s %9s  %s\n' target executions features found
for target in "${TARGETS[@]}"; do report "$target"; done
exit $FOUND
