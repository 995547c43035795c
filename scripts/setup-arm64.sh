#!/usr/bin/env bash
# Installs what cross-building for arm64 takes: Debian's cross compiler and C library, and Rust's target.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu)
[ -e /usr/aarch64-linux-gnu/lib/libc.a ] || missing+=(libc6-dev-arm64-cross)
scripts/apt-install.sh "${missing[@]}"
rustc --print target-libdir --target aarch64-unknown-linux-gnu 2>/dev/null | xargs -r test -d && exit
command -v rustup >/dev/null || { echo "overlane: this Rust has no target aarch64-unknown-linux-gnu, and there is no rustup to add it" >&2; exit 2; }
rustup target add aarch64-unknown-linux-gnu
