# shellcheck shell=bash
# What the vault is measured against, each with the words of the same operations. Sourced by bench-vault.sh.
#
# Every function takes PEER REPO first. CMD is then the command, to be run by `measured`. A repository is a folder:
# for qcow2 and zstd, which have none, one file for each point.

# shellcheck disable=SC2034  # by bench-vault.sh
ALL_PEERS=(ours restic restic-old borg borg-sparse borg-default qcow2 zstd rustic)
# The password is in the environment of every command, for all of them the same.
export NESTLING_VAULT_PASSWORD=benchmark RESTIC_PASSWORD=benchmark BORG_PASSPHRASE=benchmark RUSTIC_PASSWORD=benchmark
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes RUSTIC_NO_CACHE=

# Debian's restic of two releases, unpacked, not installed; rustic where somebody has built one.
fetch_peers() {
  local release tool
  for release in bookworm:restic-old trixie:restic; do
    tool=$TOOLS/${release#*:}
    if [ ! -x "$tool/usr/bin/restic" ]; then
      note "fetching restic of Debian ${release%:*}"
      rm -rf "$tool.new"
      apt_unpack "$TOOLS/apt-${release%:*}" "${release%:*}" restic "$tool.new"
      mv "$tool.new" "$tool"
    fi
  done
  # https://crates.io/crates/rustic-rs: `cargo install --locked rustic-rs --root TOOLS/rustic`, some 20 minutes.
  if [ ! -x "$TOOLS/rustic/bin/rustic" ]; then note "rustic is left out: there is none in $TOOLS/rustic/bin"; fi
}

program() {
  case $1 in
    restic | restic-old) printf '%s' "$TOOLS/$1/usr/bin/restic" ;;
    rustic) printf '%s' "$TOOLS/rustic/bin/rustic" ;;
    borg*) command -v borg ;;
    qcow2) command -v qemu-img ;;
    zstd) command -v zstd ;;
    ours) printf '%s' "$NESTLING" ;;
  esac
}

peer_label() {
  local version
  case $1 in
    ours) printf 'Nestling' ;;
    borg*)
      version=$(borg --version | cut -d' ' -f2)
      case $1 in
        borg) printf 'borg %s, fixed 4 MiB' "$version" ;;
        borg-sparse) printf 'borg %s, fixed 4 MiB, --sparse' "$version" ;;
        borg-default) printf 'borg %s, default chunks' "$version" ;;
      esac
      ;;
    restic*) printf 'restic %s' "$("$(program "$1")" version | cut -d' ' -f2)" ;;
    rustic) printf 'rustic %s' "$("$(program "$1")" --version | cut -d' ' -f2)" ;;
    qcow2) printf 'qemu-img %s, qcow2 zstd, not encrypted' "$(qemu-img --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')" ;;
    zstd) printf 'zstd -3 -T%s, not encrypted' "$(nproc)" ;;
  esac
}

# Whether a peer can do an operation: init save changed restore verify serve prune again.
can() {
  [ -x "$(program "$1")" ] || return 1
  case $1:$2 in
    ours:changed) "$NESTLING" vault save --help 2>/dev/null | grep -q -- --changed ;;
    ours:again) can ours save ;;
    ours:serve) can ours nbd ;;
    ours:prune) "$NESTLING" vault prune --help >/dev/null 2>&1 && can ours forget ;;
    ours:*) "$NESTLING" vault "$2" --help >/dev/null 2>&1 ;;
    *:changed) false ;;
    qcow2:serve | *:init | *:save | *:restore | *:again) true ;;
    qcow2:* | zstd:*) false ;;
    restic-old:prune | borg*:prune) false ;;
    rustic:serve) false ;;
    *) true ;;
  esac
}

# Words that every call of a peer begins with.
base_words() {
  case $1 in
    restic | restic-old) BASE=("$(program "$1")" -q -r "$2" --cache-dir "$WORK/cache/$1") ;;
    rustic) BASE=("$(program rustic)" --no-progress --log-level error -r "$2" --no-cache) ;;
    borg*)
      export BORG_BASE_DIR=$WORK/cache/$1
      mkdir -p "$BORG_BASE_DIR"
      BASE=(borg)
      ;;
    ours) BASE=("$NESTLING" vault) ;;
  esac
}

init_words() {
  local BASE
  base_words "$@"
  rm -rf "$2" "${WORK:?}/cache/$1"
  case $1 in
    restic | restic-old) CMD=("${BASE[@]}" init --repository-version 2) ;;
    rustic) CMD=("${BASE[@]}" init) ;;
    borg*) base_words "$@" && CMD=(borg init -e repokey "$2") ;;
    ours) CMD=("${BASE[@]}" init "$2") ;;
    *) CMD=(mkdir -p "$2") ;;
  esac
}

# save_words PEER REPO NAME POINT IMAGE [CHANGED]: a point of disk NAME; POINT is unique in the repository.
save_words() {
  local BASE chunks=(--chunker-params "fixed,4194304")
  base_words "$@"
  case $1 in
    restic) CMD=("${BASE[@]}" backup --no-scan --tag "$4" "$5") ;;
    restic-old) CMD=("${BASE[@]}" backup --tag "$4" "$5") ;;
    rustic) CMD=("${BASE[@]}" backup --no-scan --tag "$4" "$5") ;;
    borg) CMD=(borg create -C "zstd,3" "${chunks[@]}" "$2::$4" "$5") ;;
    borg-sparse) CMD=(borg create -C "zstd,3" "${chunks[@]}" --sparse "$2::$4" "$5") ;;
    borg-default) CMD=(borg create -C "zstd,3" "$2::$4" "$5") ;;
    qcow2) CMD=(qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd "$5" "$2/$4.qcow2") ;;
    zstd) CMD=(zstd -q -3 -T0 -f "$5" -o "$2/$4.zst") ;;
    ours) CMD=("${BASE[@]}" save "$2" "$3" "$5" ${6:+--changed "$6"}) ;;
  esac
}

# restore_words PEER REPO NAME POINT IMAGE OUT: the newest point of NAME, to a folder OUT. RESTORED is the file then.
restore_words() {
  local BASE
  base_words "$@"
  RESTORED=$6/disk.raw
  case $1 in
    restic) CMD=("${BASE[@]}" restore latest --tag "$4" --target "$6" --sparse) && RESTORED=$6$5 ;;
    restic-old) CMD=("${BASE[@]}" restore latest --tag "$4" --target "$6") && RESTORED=$6$5 ;;
    rustic) CMD=("${BASE[@]}" restore "latest:$5" "$RESTORED" --filter-jq ".tags == [\"$4\"]") ;;
    borg*)
      # shellcheck disable=SC2016  # sh expands it.
      CMD=(sh -c 'cd "$1" && exec borg extract --sparse "$2"' sh "$6" "$2::$4")
      RESTORED=$6/${5#/}
      ;;
    qcow2) CMD=(qemu-img convert -f qcow2 -O raw "$2/$4.qcow2" "$RESTORED") ;;
    zstd) CMD=(zstd -q -d -f "$2/$4.zst" -o "$RESTORED") ;;
    ours) CMD=("${BASE[@]}" restore "$2" "$3" "$RESTORED") ;;
  esac
}

verify_words() {
  local BASE
  base_words "$@"
  case $1 in
    restic* | rustic) CMD=("${BASE[@]}" check --read-data) ;;
    borg*) CMD=(borg check --verify-data "$2") ;;
    ours) CMD=("${BASE[@]}" verify "$2" --all-data) ;;
  esac
}

# forget_words PEER REPO NAME KEEP: all but the newest KEEP points, and what only they had is freed.
forget_words() {
  local BASE
  base_words "$@"
  case $1 in
    restic | restic-old) CMD=("${BASE[@]}" forget --group-by host --keep-last "$4" --prune) ;;
    rustic) CMD=("${BASE[@]}" forget --group-by host --keep-last "$4" --prune --instant-delete) ;;
    ours) CMD=("${BASE[@]}" forget "$2" "$3" --keep-last "$4" --prune) ;;
  esac
}

# serve PEER REPO NAME POINT IMAGE: starts what a point is read through. SERVER is its process, TARGET where to read.
serve() {
  local BASE
  base_words "$@"
  local mount=$WORK/mount socket=$WORK/nbd.sock
  mkdir -p "$mount"
  rm -f "$socket"
  TARGET=nbd:$socket
  case $1 in
    restic | restic-old) CMD=("${BASE[@]}" mount "$mount") && TARGET=file:$mount/tags/$4/latest$5 ;;
    borg*) CMD=(borg mount -f "$2::$4" "$mount") && TARGET=file:$mount/${5#/} ;;
    qcow2) CMD=(qemu-nbd -r -t -e 4 -k "$socket" -f qcow2 "$2/$4.qcow2") ;;
    ours) CMD=("${BASE[@]}" nbd "$2" "$3" --socket "$socket") ;;
  esac
  "${CMD[@]}" >"$WORK/said" 2>&1 &
  SERVER=$!
  for _ in $(seq 3000); do
    if [ -e "${TARGET#*:}" ]; then return; fi
    [ -e "/proc/$SERVER" ] || break
    sleep 0.01
  done
  cat "$WORK/said" >&2
  die "$1 serves nothing at $TARGET"
}

end_serving() {
  if mountpoint -q "$WORK/mount"; then umount "$WORK/mount"; fi
  for _ in $(seq 100); do
    kill "$SERVER" 2>/dev/null || break
    sleep 0.05
  done
  kill -9 "$SERVER" 2>/dev/null || true
  wait "$SERVER" 2>/dev/null || true
}
