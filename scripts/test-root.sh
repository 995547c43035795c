#!/usr/bin/env bash
# Runs the suites that need root: real namespaces, real binaries. Fails without root and if no test ran.
#   scripts/test-root.sh [SUITE...] [-- FILTER...]     OVERLANE_BIN=DIR: other binaries; OVERLANE_NODES=N: nodes of the largest lab
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "overlane: these suites make network namespaces and need root: run this as root" >&2
  exit 2
fi
suites=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do suites+=("$1"); shift; done
[ "${1:-}" != -- ] || shift
[ "${#suites[@]}" -gt 0 ] || suites=(harness connectivity routing egress policy cni ipam kill lifecycle foreign masq labs)

# Crates with unit tests that need root say so by the same feature.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
bad=()
for suite in "${suites[@]}"; do
  began=$(date +%s)
  echo "== suite $suite"
  code=0
  # What waits for gateways to be missed and to come back leaves the machine to others meanwhile.
  [ "$suite" = egress ] && threads=3 || threads=2
  cargo test --locked -p overlane-suites --features root-tests --test "$suite" -- --test-threads="${OVERLANE_TEST_THREADS:-$threads}" "$@" 2>&1 | tee "$log" || code=$?
  ran=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$log" | awk '{n += $1 + $2} END {print n + 0}')
  if [ "$ran" = 0 ]; then
    echo "overlane: suite $suite ran no test" >&2
    code=1
  fi
  [ "$code" = 0 ] || bad+=("$suite")
  echo "== suite $suite: $ran tests, exit $code, $(($(date +%s) - began)) s"
done
# The janitors of the last suite may still be at it.
for _ in $(seq 100); do
  ls /run/netns 2>/dev/null | grep -E "^(ovl-)?ovs-" >/dev/null || break
  sleep 0.2
done
if ls /run/netns 2>/dev/null | grep -E "^(ovl-)?ovs-" >&2; then
  echo "overlane: namespaces above were left behind" >&2
  bad+=(leftovers)
fi
if [ "${#bad[@]}" -gt 0 ]; then
  echo "overlane: failed: ${bad[*]}" >&2
  exit 1
fi
