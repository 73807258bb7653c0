# shellcheck shell=bash
# What ./demo and ./test share: installing what is missing, building, and talking.
# Sourced, never run. It must install only what it names first, and change no file outside the
# repository and the package manager's own.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_PROGRESS_WHEN=never DEBIAN_FRONTEND=noninteractive

PACKAGES=(
  qemu-system-x86 qemu-utils ovmf seabios      # the engine, its firmware, disk images
  nftables iproute2 dnsmasq-base kmod          # networks
  mmdebstrap busybox-static cpio lz4 zstd xz-utils fdisk e2fsprogs dosfstools mtools  # guest images
  ntfs-3g exfatprogs exfat-fuse fuse3 gdisk parted  # file systems and partitions, for the tests of our readers
  xfsprogs btrfs-progs                         # those of others, for the machine that mounts them
  libnbd-bin nbdkit                            # other people's NBD, for the tests of ours
  iputils-ping socat python3 python3-venv restic  # what the tests, the stories and the demo look with
  openssl python3-aiosmtpd                     # an authority and a mail server, for the tests of mail
  gcc libc6-dev binutils make curl ca-certificates git    # to build
)
# More, where the vault is measured: what its disk images are made with, and what it is compared with.
# shellcheck disable=SC2034  # by scripts/vault-corpus.sh
CORPUS_PACKAGES=(mmdebstrap fdisk e2fsprogs ntfs-3g util-linux python3 debian-archive-keyring)
# shellcheck disable=SC2034
BENCH_PACKAGES=(borgbackup python3-llfuse fuse3 zstd qemu-utils libnbd-bin jq)

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Network namespaces, bridges and nftables need root: the whole script runs again through sudo once.
need_root() {
  [ "$(id -u)" = 0 ] && return
  command -v sudo >/dev/null || die "this needs root: it makes network namespaces; run it as root or install sudo"
  say "Root is needed for network namespaces: going on through sudo"
  exec sudo --preserve-env=PATH,HOME,CARGO_TARGET_DIR,FUZZ_SECONDS,NESTLING_TORTURE_ROUNDS,NESTLING_TORTURE_SEED "$0" "$@"
}

install_packages() {
  command -v apt-get >/dev/null || die "this needs Debian 12 or 13 (no apt-get here)"
  local missing=() p
  for p in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  # Guest images are built from packages, so the lists must be there and fresh in any case.
  if [ ${#missing[@]} != 0 ] || [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 -print -quit)" ]; then
    as_root apt-get update -q >&2
  fi
  [ ${#missing[@]} = 0 ] && return
  say "Installing from the distribution: ${missing[*]}"
  # Nothing is removed for it: apt would rather do without a qemu-utils that is there already.
  as_root apt-get install -y -q --no-install-recommends --no-remove "${missing[@]}" >&2 && return
  # A qemu-utils from another release than the rest of QEMU keeps QEMU out: bring them together.
  local version
  version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ {print $2}')
  say "Bringing qemu-utils to version $version, that of the distribution's QEMU"
  as_root apt-get install -y -q --no-install-recommends --no-remove --allow-downgrades "${missing[@]}" "qemu-utils=$version" >&2
}

# The oldest Rust that can build this: rust-version in Cargo.toml.
rust_is_new_enough() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
  have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]
}

install_rust() {
  [ ! -x "$HOME/.cargo/bin/cargo" ] || export PATH="$HOME/.cargo/bin:$PATH"
  rust_is_new_enough && return
  say "Installing the Rust toolchain with rustup, for $(id -un) only"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy >&2
  export PATH="$HOME/.cargo/bin:$PATH"
}

# Where cargo puts what it builds.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}"; }
