#!/usr/bin/env bash
# Feeds what parses hostile input with rubbish that grows by coverage.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]    each target for a minute, or one of those in fuzz/fuzz_targets
#
# Needs no nightly Rust: the compiler's coverage pass and libFuzzer's driver are enough to find panics. What is found
# stays in fuzz/target/artifacts; the inputs that led somewhere new stay in fuzz/target/corpus.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

SECONDS_EACH=${1:-60}
if [ $# -ge 2 ]; then TARGETS=("$2"); else TARGETS=(qmp agent channel disk saved_state script); fi

TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Ccodegen-units=1"

# What begins right: rubbish alone hardly ever has sixteen given bytes at its front.
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

for target in "${TARGETS[@]}"; do
  features=()
  if [ "$target" = script ]; then features=(--features script); fi
  # With the target given, build scripts and macros are built without those flags.
  cargo build --quiet --target "$TRIPLE" --bin "$target" "${features[@]}"
  mkdir -p "target/corpus/$target" "target/artifacts/$target"
  seed "$target"
  echo "== $target for $SECONDS_EACH s" >&2
  "${CARGO_TARGET_DIR:-target}/$TRIPLE/debug/$target" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="target/artifacts/$target/" -print_final_stats=1 "target/corpus/$target"
done
