#!/usr/bin/env bash
# Kubernetes' own specifications against the running cluster.
#   e2e.sh short        one of each group that a network is judged by
#   e2e.sh FOCUS...     those that match any of these regular expressions
# A specification that cannot pass for a reason outside Overlane is named, with its reason, in known-failures.txt beside
# this, and left out. EXPECT=N: how many must run. SKIP: what else is left out.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=${OVERLANE_KUBERNETES:-$here/../../target/kubernetes}
cluster=$here/cluster.sh
report=${REPORT:-$base/e2e}
mkdir -p "$report"
focus=("$@")
[ "${1:-}" != short ] || focus=(
  'Networking Granular Checks: Pods should function for intra-pod communication: http'
  'Networking Granular Checks: Pods should function for node-pod communication: udp'
  'Services should serve a basic endpoint from pods'
  'Services should be able to change the type from ExternalName to NodePort'
  'DNS should provide DNS for the cluster '
  'HostPort validates that there is no conflict between pods with same hostPort'
  'EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service'
  '\[Feature:IPv6DualStack\].* should create pod, add ipv6 and ipv4 ip to pod ips'
  'Netpol NetworkPolicy between server and client should enforce policy based on PodSelector and NamespaceSelector'
  'Netpol NetworkPolicy between server and client should enforce updated policy'
  'Netpol NetworkPolicy between server and client should enforce except clause while egress access to server in CIDR block'
  'Netpol NetworkPolicy between server and client should allow egress access on one named port'
)
skip="$(sed -nE 's/^([^#\t]+)\t.*/\1|/p' "$here/known-failures.txt" | tr -d '\n')${SKIP:-\[Disruptive\]|\[Serial\]}"
pattern=$(printf '%s|' "${focus[@]}")
"$cluster" exec cp "$base/bin/e2e.test" --provider=local --kubeconfig="$("$cluster" kubeconfig)" --num-nodes=2 \
  --report-dir="$report" --allowed-not-ready-nodes=0 --non-blocking-taints=node-role.kubernetes.io/control-plane \
  --ginkgo.focus="${pattern%|}" --ginkgo.skip="$skip" --ginkgo.no-color --ginkgo.timeout=2h \
  >"$report/log.txt" 2>&1 || code=$?
# The suite's own last lines: how many ran, passed, failed.
grep -a -E '^(Ran [0-9]+ of|SUCCESS!|FAIL!|\s+\[FAIL\])' "$report/log.txt" || true
ran=$(LC_ALL=C sed -nE 's/^Ran ([0-9]+) of .*/\1/p' "$report/log.txt" | tail -1)
[ "${ran:-0}" != 0 ] || { tail -20 "$report/log.txt" >&2; echo "e2e.sh: no specification ran" >&2; exit 1; }
[ "${1:-}" != short ] || EXPECT=${#focus[@]}
[ "$ran" -ge "${EXPECT:-1}" ] || { echo "e2e.sh: $ran of $EXPECT specifications ran" >&2; exit 1; }
exit "${code:-0}"
