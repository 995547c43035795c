#!/usr/bin/env bash
# The full suite against a real Kubernetes, in shards: one that is done, of the same image, is not run again, so that a
# run that was cut off goes on. The report of every specification is written to tests/kubernetes/report.md.
#   scripts/test-kubernetes-full.sh BINARIES IMAGE [SHARD...]
# Shards: conformance, ports, policy, ipv4, ipv6, ipv6-first, iptables, life
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binaries=$(realpath "$1")
image=$(realpath "$2")
shift 2
shards=("$@")
[ "${#shards[@]}" -gt 0 ] || shards=(conformance ports policy ipv4 ipv6 ipv6-first iptables life)
export OVERLANE_CLUSTER=$PWD/tests/kubernetes/cluster.sh OVERLANE_BIN=$binaries
base=${OVERLANE_KUBERNETES:-$PWD/target/kubernetes}
mark=$(sha256sum <"$image" | cut -c1-16)
done_dir=$base/full/$mark
mkdir -p "$done_dir"
tests/kubernetes/setup.sh
tests/kubernetes/build.sh
# What every family has to do, pod by pod.
granular='Networking Granular Checks: Pods should function'
bad=()
trap 'NAME=ovk "$OVERLANE_CLUSTER" down' EXIT
with_cluster() { # SHARD FAMILIES PROXY COMMAND...
  local shard=$1 code=0
  export NAME=ovk FAMILIES=$2 PROXY=$3
  shift 3
  "$OVERLANE_CLUSTER" down || return
  "$OVERLANE_CLUSTER" up || return
  "$OVERLANE_CLUSTER" import "$image" || return
  "$OVERLANE_CLUSTER" exec cp "$binaries/overlane" install --kubeconfig "$("$OVERLANE_CLUSTER" kubeconfig)" || return
  REPORT=$done_dir/$shard "$@" || code=$?
  "$OVERLANE_CLUSTER" down
  return "$code"
}
life() {
  mkdir -p "$REPORT"
  cargo test --locked -p overlane-suites --features root-tests --test kubernetes_full -- --test-threads=1 --nocapture 2>&1 |
    tee "$REPORT/log.txt"
  grep -q '^test result: ok. [1-9]' "$REPORT/log.txt"
}
for shard in "${shards[@]}"; do
  if [ -e "$done_dir/$shard.done" ]; then
    echo "== $shard: done before"
    continue
  fi
  began=$SECONDS
  echo "== $shard"
  code=0
  case $shard in
    conformance) with_cluster "$shard" ipv4,ipv6 nftables env 'SKIP=^$' EXPECT=47 tests/kubernetes/e2e.sh '\[sig-network\].*\[Conformance\]' || code=$? ;;
    ports) with_cluster "$shard" ipv4,ipv6 nftables tests/kubernetes/e2e.sh 'HostPort' '\[Feature:IPv6DualStack\]' || code=$? ;;
    policy) with_cluster "$shard" ipv4,ipv6 nftables env EXPECT=42 tests/kubernetes/e2e.sh 'Netpol NetworkPolicy between server and client' || code=$? ;;
    ipv4) with_cluster "$shard" ipv4 nftables tests/kubernetes/e2e.sh "$granular" || code=$? ;;
    ipv6) with_cluster "$shard" ipv6 nftables tests/kubernetes/e2e.sh "$granular" || code=$? ;;
    ipv6-first) with_cluster "$shard" ipv6,ipv4 nftables tests/kubernetes/e2e.sh "$granular" || code=$? ;;
    iptables) with_cluster "$shard" ipv4,ipv6 iptables tests/kubernetes/e2e.sh "$granular" 'Services should' || code=$? ;;
    life) with_cluster "$shard" ipv4,ipv6 nftables life || code=$? ;;
    *) echo "test-kubernetes-full.sh: no shard is called $shard" >&2; exit 2 ;;
  esac
  echo "== $shard: exit $code, $((SECONDS - began)) s"
  [ "$code" = 0 ] && touch "$done_dir/$shard.done" || bad+=("$shard")
  /usr/bin/python3 tests/kubernetes/report.py "$done_dir" >tests/kubernetes/report.md
done
[ "${#bad[@]}" = 0 ] || { echo "overlane: failed: ${bad[*]}; see tests/kubernetes/report.md and $done_dir" >&2; exit 1; }
