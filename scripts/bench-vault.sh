#!/usr/bin/env bash
# What ./bench measures of the vault, beside the programs that it is compared with. Every figure is a line
# "run<TAB>row<TAB>side<TAB>metric<TAB>value" in WORK/results; a side is one of the peers of bench-vault-peers.sh.
#
#   scripts/bench-vault.sh [--runs N] [--rows LIST] [--peers LIST] [--peers-only] [--corpus DIR] [--work DIR] [--tools DIR]
#
# Rows: full (a full save of A, then B unchanged in name, then C: cost and size), restore, random, sequential, verify,
# changed (B and E with changed extents), sizes (the same change in disks of 1 GiB and 1 TiB), prune, parts.
# --peers-only leaves Nestling out; what Nestling cannot do yet is left out with a note, too.
#
# It runs in mount and process namespaces of its own: what it mounts or starts ends with it, however it ends.
. "$(dirname "$0")/setup.sh"
. "$(dirname "$0")/debian-apt.sh"
. "$(dirname "$0")/bench-vault-peers.sh"
set -E
trap 'printf "error: line %s of %s: %s\n" "$LINENO" "${BASH_SOURCE[0]}" "$BASH_COMMAND" >&2' ERR
export LC_ALL=C

ALL_ROWS=full,restore,random,sequential,verify,changed,sizes,prune,parts
ROWS=$ALL_ROWS
RUNS=${RUNS:-5}
WORK=${WORK:-/var/tmp/nestling-vault-bench}
CORPUS=${NESTLING_BENCH_CORPUS:-/var/tmp/nestling-vault-corpus}
TOOLS=${NESTLING_BENCH_TOOLS:-/var/tmp/nestling-vault-peers}
NESTLING=${NESTLING:-}
PEERS=${NESTLING_BENCH_PEERS:-$(IFS=,; echo "${ALL_PEERS[*]}")}
SCRIPTS=$(realpath "$(dirname "$0")")
COMMAND_SECONDS=3600
READS=200
PRUNE_POINTS=200
PRUNE_IMAGE_BYTES=$((64 << 20))
RUN=0

note() { printf '  %s\n' "$*" >&2; }
record() { printf '%s\t%s\t%s\t%s\t%s\n' "$RUN" "vault_$1" "$2" "$3" "$4" >>"$WORK/results"; }
fact() { record facts corpus "$1" "$2"; }
has() { case ,$1, in *,"$2",*) ;; *) false ;; esac; }
wants() { has "$ROWS" "$1"; }
reads() { python3 "$SCRIPTS/vault_reads.py" "$@"; }
generate() { python3 "$SCRIPTS/vault_corpus.py" "$@"; }
used() { jq -r --arg name "$1" '.files[$name].used_bytes' "$CORPUS/manifest.json"; }

# Runs CMD; what it cost is then in WALL_MS, CPU_MS, RSS_KIB, READ_BYTES and WRITTEN_BYTES.
measured() {
  sync -f "$WORK"
  python3 -I -S "$SCRIPTS/measure.py" "$WORK/cost" timeout -k 10 $COMMAND_SECONDS "${CMD[@]}" >"$WORK/said" 2>&1 </dev/null ||
    { tail -n 20 "$WORK/said" >&2; die "failed: ${CMD[*]}"; }
  read -r WALL_MS CPU_MS RSS_KIB READ_BYTES WRITTEN_BYTES <"$WORK/cost"
}

# Measures CMD as ROW of PEER, with an optional prefix for its metrics.
measured_as() {
  measured
  record "$1" "$2" "${3:-}wall_ms" "$WALL_MS"
  record "$1" "$2" "${3:-}cpu_ms" "$CPU_MS"
  record "$1" "$2" "${3:-}rss_kib" "$RSS_KIB"
  record "$1" "$2" "${3:-}read_bytes" "$READ_BYTES"
  record "$1" "$2" "${3:-}written_bytes" "$WRITTEN_BYTES"
  note "run $RUN of $RUNS, $1 ${3:-}$2: $WALL_MS ms, CPU $CPU_MS ms, $RSS_KIB KiB, read $READ_BYTES bytes"
}

repo_bytes() { find "$1" -type f -printf '%s\n' | awk '{sum += $1} END {printf "%.0f", sum}'; }

# What a repository holds beside the disks' own data: all of it less the data blobs that its index lists.
metadata_bytes() {
  local restic=("$TOOLS/restic/usr/bin/restic" -q -r "$1" --no-cache --no-lock) id data
  data=$(for id in $("${restic[@]}" list index); do "${restic[@]}" cat index "$id"; done |
    jq -s '[.[].packs[]?.blobs[] | select(.type == "data") | {id, length}] | unique_by(.id) | map(.length) | add // 0')
  printf '%d' $(($(repo_bytes "$1") - data))
}

# The images in use are warm, the others out of the way.
warm() {
  local image keep=()
  for image in "$CORPUS"/*.raw; do
    if ! has "$(IFS=,; echo "$*")" "$(basename "$image")"; then keep+=("$image"); fi
  done
  reads evict "${keep[@]}"
  for image; do reads warm "$CORPUS/$image"; done
}

new_repo() {
  rm -rf "$2"
  init_words "$1" "$2"
  measured
}

# --- one repository for full, restore, random, sequential and verify ----------------------------------------------

cycle() {
  local peer=$1 repo=$WORK/repo/$1
  new_repo "$peer" "$repo"
  warm A.raw
  save_words "$peer" "$repo" disk A "$CORPUS/A.raw"
  measured_as full "$peer"
  record full "$peer" repo_a_bytes "$(repo_bytes "$repo")"
  if wants restore && can "$peer" restore; then restore_row "$peer" "$repo"; fi
  if wants random && can "$peer" serve; then random_row "$peer" "$repo"; fi
  if wants sequential && can "$peer" serve; then sequential_row "$peer" "$repo"; fi
  if wants full; then
    warm B.raw
    save_words "$peer" "$repo" disk B "$CORPUS/B.raw"
    measured_as full "$peer" again_
    record full "$peer" repo_b_bytes "$(repo_bytes "$repo")"
    warm C.raw
    save_words "$peer" "$repo" other C "$CORPUS/C.raw"
    measured_as full "$peer" other_
    record full "$peer" repo_c_bytes "$(repo_bytes "$repo")"
  fi
  if wants verify && can "$peer" verify; then
    verify_words "$peer" "$repo"
    measured_as verify "$peer"
    record verify "$peer" repo_bytes "$(repo_bytes "$repo")"
  fi
  rm -rf "$repo"
}

restore_row() {
  local out=$WORK/restored
  rm -rf "$out"
  mkdir -p "$out"
  restore_words "$1" "$2" disk A "$CORPUS/A.raw" "$out"
  measured_as restore "$1"
  record restore "$1" disk_kib "$(du -k "$RESTORED" | cut -f1)"
  if [ "$RUN" = 1 ]; then cmp "$RESTORED" "$CORPUS/A.raw" || die "$1 restored other bytes"; fi
  rm -rf "$out"
}

# CPU time, and largest memory, of the process that serves.
server_cpu_ms() {
  local fields
  read -ra fields <<<"$(sed 's/.*) //' "/proc/$SERVER/stat")"
  printf '%s' $(((fields[11] + fields[12]) * 1000 / $(getconf CLK_TCK)))
}
server_rss_kib() { awk '/^VmHWM:/ {print $2}' "/proc/$SERVER/status"; }

random_row() {
  local peer=$1 begun pass middle tail most
  reads evict "$2"
  rm -rf "${WORK:?}/cache/$peer"
  begun=${EPOCHREALTIME/./}
  serve "$peer" "$2" disk A "$CORPUS/A.raw"
  record random "$peer" start_ms $(((${EPOCHREALTIME/./} - begun) / 1000))
  timeout 600 python3 "$SCRIPTS/vault_reads.py" reads "$CORPUS/A.raw" $READS "$RUN" "$TARGET" >"$WORK/passes" || die "$peer: reads failed"
  while read -r pass middle tail most; do
    record random "$peer" "${pass}_p50_us" "$middle"
    record random "$peer" "${pass}_p99_us" "$tail"
    note "run $RUN of $RUNS, random $peer $pass: p50 $middle us, p99 $tail us, most $most us"
  done <"$WORK/passes"
  record random "$peer" cpu_ms "$(server_cpu_ms)"
  record random "$peer" rss_kib "$(server_rss_kib)"
  end_serving
}

sequential_row() {
  local cpu
  serve "$1" "$2" disk A "$CORPUS/A.raw"
  if [ "${TARGET%%:*}" = nbd ]; then
    cpu=$(server_cpu_ms)
    CMD=(nbdcopy "nbd+unix:///?socket=${TARGET#*:}" null:)
    measured_as sequential "$1"
    record sequential "$1" server_cpu_ms $(($(server_cpu_ms) - cpu))
    record sequential "$1" server_rss_kib "$(server_rss_kib)"
  fi
  end_serving
}

# --- changed extents ----------------------------------------------------------------------------------------------

# The peers have no such hint and read everything again; restic's and borg's cost for E is measured here.
changed_pair() {
  local peer=$1 base=$2 new=$3 repo=$WORK/repo/$1 hint='' before metadata=0
  new_repo "$peer" "$repo"
  warm "$base.raw" "$new.raw"
  save_words "$peer" "$repo" disk base "$CORPUS/$base.raw"
  measured
  before=$(repo_bytes "$repo")
  if can "$peer" changed; then hint=$CORPUS/$new.changed.json metadata=$(metadata_bytes "$repo"); fi
  save_words "$peer" "$repo" disk new "$CORPUS/$new.raw" "$hint"
  measured_as changed "$peer" "${new,,}_"
  record changed "$peer" "${new,,}_growth_bytes" $(($(repo_bytes "$repo") - before))
  if [ -n "$hint" ]; then
    record changed "$peer" "${new,,}_metadata_bytes" $(($(metadata_bytes "$repo") - metadata))
    if [ "$RUN" = 1 ] && can "$peer" restore; then restored_equals "$peer" "$repo" "$CORPUS/$new.raw"; fi
  fi
  rm -rf "$repo"
}

restored_equals() {
  rm -rf "$WORK/restored"
  mkdir -p "$WORK/restored"
  restore_words "$1" "$2" disk new "$3" "$WORK/restored"
  measured
  cmp "$RESTORED" "$3" || die "$1 restored other bytes"
  rm -rf "$WORK/restored"
}

changed_row() {
  case $1 in
    ours) if can ours changed; then changed_pair ours A B; changed_pair ours E0 E; fi ;;
    qcow2 | zstd) ;;
    *)
      changed_pair "$1" E0 E
      # B without hints is measured with the full saves, where those are.
      wants full || changed_pair "$1" A B
      ;;
  esac
}

# The same data and the same change in disks of two sizes: does the cost follow the change or the disk?
sizes_row() {
  local size image=$WORK/sparse.raw repo=$WORK/repo/sizes
  can ours changed || return 0
  for size in 1G 1T; do
    rm -f "$image"
    truncate -s $size "$image"
    dd if="$CORPUS/E0.raw" of="$image" bs=1M count=512 conv=notrunc,sparse status=none
    dd if="$CORPUS/E0.raw" of="$image" bs=1M count=128 skip=512 seek=$(($(stat -c %s "$image") / 1048576 - 256)) conv=notrunc,sparse status=none
    new_repo ours "$repo"
    reads warm "$image"
    save_words ours "$repo" disk base "$image"
    measured_as sizes ours "full_${size}_"
    local before metadata
    before=$(repo_bytes "$repo") metadata=$(metadata_bytes "$repo")
    change_first "$image" 64 $((50 + RUN)) >"$WORK/sparse.json"
    save_words ours "$repo" disk new "$image" "$WORK/sparse.json"
    measured_as sizes ours "changed_${size}_"
    record sizes ours "changed_${size}_growth_bytes" $(($(repo_bytes "$repo") - before))
    record sizes ours "changed_${size}_metadata_bytes" $(($(metadata_bytes "$repo") - metadata))
  done
  rm -rf "$image" "$repo"
}

# Changes COUNT places in the first 512 MiB of an image, whatever its size.
change_first() {
  truncate -s 512M "$WORK/first"
  dd if="$1" of="$WORK/first" bs=1M count=512 conv=notrunc,sparse status=none
  generate change-blocks "$WORK/first" "$2" "$3"
  dd if="$WORK/first" of="$1" bs=1M count=512 conv=notrunc status=none
  rm "$WORK/first"
}

# --- prune --------------------------------------------------------------------------------------------------------

# A repository of 200 points with small changes, made once for each peer.
prune_prepare() {
  local peer=$1 repo=$WORK/prune/$1 image=$WORK/points.raw point hint=''
  if [ -d "$repo" ]; then return; fi
  note "preparing $PRUNE_POINTS points for $peer"
  new_repo "$peer" "$repo"
  dd if="$CORPUS/E0.raw" of="$image" bs=1M skip=512 count=$((PRUNE_IMAGE_BYTES >> 20)) status=none
  for point in $(seq $PRUNE_POINTS); do
    generate change-blocks "$image" 12 $((1000 + point)) >"$WORK/points.json"
    if [ "$point" != 1 ] && can "$peer" changed; then hint=$WORK/points.json; fi
    save_words "$peer" "$repo" disk "point-$point" "$image" "$hint"
    "${CMD[@]}" >"$WORK/said" 2>&1 || { cat "$WORK/said" >&2; die "failed: ${CMD[*]}"; }
  done
}

prune_row() {
  local peer=$1 repo=$WORK/repo/$1
  can "$peer" prune || return 0
  prune_prepare "$peer"
  rm -rf "$repo"
  cp -a "$WORK/prune/$peer" "$repo"
  record prune "$peer" repo_before_bytes "$(repo_bytes "$repo")"
  forget_words "$peer" "$repo" disk $((PRUNE_POINTS / 2))
  measured_as prune "$peer"
  record prune "$peer" repo_after_bytes "$(repo_bytes "$repo")"
  rm -rf "$repo"
}

# --- parts of a full save, each alone -----------------------------------------------------------------------------

# A program beside nestling, examples/vault-parts parts IMAGE, prints "part<TAB>cpu_ms" for read, hash, compress and seal.
parts_row() {
  local parts part value
  parts=${VAULT_PARTS:-$(dirname "${NESTLING:-/none}")/examples/vault-parts}
  if [ ! -x "$parts" ]; then
    note "the parts of a save are not measured: no $parts"
    return 0
  fi
  warm A.raw
  timeout $COMMAND_SECONDS "$parts" parts "$CORPUS/A.raw" >"$WORK/parts" || die "failed: $parts"
  while IFS=$'\t' read -r part value; do record parts ours "${part}_cpu_ms" "$value"; done <"$WORK/parts"
}

# --- all of it ----------------------------------------------------------------------------------------------------

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --peers-only) NESTLING='' && shift && continue ;;
      --runs | --rows | --peers | --corpus | --work | --tools) [ $# -ge 2 ] || die "$1 takes a value" ;;
      *) die "unknown option $1" ;;
    esac
    case $1 in
      --runs) [[ $2 =~ ^[1-9][0-9]?$ ]] || die "--runs takes a number from 1 to 99"; RUNS=$2 ;;
      --rows) ROWS=$2 ;;
      --peers) PEERS=$2 ;;
      --corpus) CORPUS=$(realpath -m "$2") ;;
      --work) WORK=$(realpath -m "$2") ;;
      --tools) TOOLS=$(realpath -m "$2") ;;
    esac
    shift 2
  done
  local word
  for word in ${ROWS//,/ }; do has "$ALL_ROWS" "$word" || die "no row $word: rows are $ALL_ROWS"; done
  for word in ${PEERS//,/ }; do has "$(IFS=,; echo "${ALL_PEERS[*]}")" "$word" || die "no peer $word: peers are ${ALL_PEERS[*]}"; done
}

facts() {
  local name peer
  for name in A B C D E; do fact "${name,,}_used_bytes" "$(used $name.raw)"; done
  for name in B E; do fact "${name,,}_changed_bytes" "$(jq '[.[].length] | add' "$CORPUS/$name.changed.json")"; done
  fact processors "$(nproc)"
  : >"$WORK/peers"
  for peer in ${PEERS//,/ }; do
    if can "$peer" save; then printf '%s\t%s\n' "$peer" "$(peer_label "$peer")" >>"$WORK/peers"; fi
  done
}

one_run() {
  local peer
  while IFS=$'\t' read -r -u 3 peer _; do
    if wants full || wants restore || wants random || wants sequential || wants verify; then cycle "$peer"; fi
    if wants changed; then changed_row "$peer"; fi
    if wants prune; then prune_row "$peer"; fi
  done 3<"$WORK/peers"
  if has "$PEERS" ours; then
    if wants sizes; then sizes_row; fi
    if wants parts; then parts_row; fi
  fi
}

main() {
  options "$@"
  [ -f "$CORPUS/manifest.json" ] || die "no disk images in $CORPUS: run scripts/vault-corpus.sh first"
  mkdir -p "$WORK/repo" "$WORK/prune" "$TOOLS"
  rm -rf "${WORK:?}"/{repo,prune,cache}/* "$WORK/results"
  fetch_peers
  if has "$PEERS" ours && ! can ours save; then note "Nestling is left out: ${NESTLING:-no program given} has no 'vault save'"; fi
  facts
  for RUN in $(seq "$RUNS"); do one_run; done
  rm -rf "$WORK/repo" "$WORK/prune" "$WORK/cache" "$WORK/points.raw"
}

if [ "${1:-}" = --inside ]; then
  main "${@:2}"
else
  [ "$(id -u)" = 0 ] || die "this needs root: it mounts file systems"
  exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private -- bash "$0" --inside "$@"
fi
