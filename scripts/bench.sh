#!/usr/bin/env bash
# All benchmarks, one after the other: they must not share the machine with each other.
#   OVERLANE_BENCH: which of them; KUBE_ROUTER=1: builds kube-router beside, whose policy engine then takes turns in `policed`
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${OVERLANE_BIN:?directory of the release binaries}
out=target/bench
mkdir -p "$out"
peer=()
if [ "${KUBE_ROUTER:-}" = 1 ]; then
  command -v ipset >/dev/null || scripts/apt-install.sh ipset iptables
  (cd tests/kube-router && go build -trimpath -o ../../target/kube-router github.com/cloudnativelabs/kube-router/v2/cmd/kube-router)
  peer=(--kube-router target/kube-router)
fi
for what in ${OVERLANE_BENCH:-cni packets scale policy policed}; do
  more=()
  [ "$what" != policed ] || more=("${peer[@]}")
  "$bin/overlane-bench" --bin "$bin" --out "$out" "$what" "${more[@]}" | tee "$out/$what.txt"
done
