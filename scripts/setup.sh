#!/usr/bin/env bash
# Installs the Debian packages that the demo, the tests and the benchmarks call. Does nothing where all are there.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
  echo "overlane: the lab makes network namespaces and needs root: run this as root" >&2
  exit 2
fi
# program -> package
declare -A need=(
  [ip]=iproute2 [nft]=nftables [conntrack]=conntrack [strace]=strace [cc]=build-essential [make]=make
  [kubectl]=kubernetes-client [jq]=jq [curl]=curl [/usr/lib/cni/ptp]=containernetworking-plugins
  [c++]=g++ [python3]=python3 [git]=git [sysctl]=procps [iptables-legacy]=iptables
)
missing=()
for program in "${!need[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${need[$program]}")
done
"$(dirname "$0")/apt-install.sh" "${missing[@]}"
command -v cargo >/dev/null 2>&1 || { echo "overlane: cargo is missing: install Rust 1.90 or later (https://rustup.rs)" >&2; exit 2; }
