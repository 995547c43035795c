#!/usr/bin/env bash
# The short suite against a real Kubernetes: builds its parts and the image, brings a cluster up, installs Overlane into
# it as a user would, tries it, runs a specification of each group of Kubernetes' own tests, and ends the cluster.
#   scripts/test-kubernetes.sh BINARIES IMAGE [FILTER...]
# Set by the environment: KEEP=1 leaves the cluster; OVERLANE_ROUTING how pod packets cross nodes (native); OVERLANE_KUBERNETES where the parts are built.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "overlane: a cluster of namespaces needs root: run this as root" >&2; exit 2; }
binaries=$(realpath "$1")
image=$(realpath "$2")
shift 2
export NAME=${NAME:-ovk} OVERLANE_CLUSTER=$PWD/tests/kubernetes/cluster.sh OVERLANE_BIN=$binaries
log=$(mktemp)
finish() {
  code=$?
  rm -f "$log"
  if [ "${KEEP:-}" != 1 ]; then
    [ "$code" = 0 ] || echo "logs of the cluster are in ${OVERLANE_KUBERNETES:-target/kubernetes}/clusters/$NAME" >&2
    "$OVERLANE_CLUSTER" down
  fi
}
trap finish EXIT
tests/kubernetes/setup.sh
tests/kubernetes/build.sh
"$OVERLANE_CLUSTER" down
"$OVERLANE_CLUSTER" up
"$OVERLANE_CLUSTER" import "$image"
run() { # FILTER...: some of the suite's tests, in the order of their names
  local code=0 ran
  cargo test --locked -p overlane-suites --features root-tests --test kubernetes -- --test-threads=1 "$@" 2>&1 | tee "$log" || code=$?
  ran=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$log" | awk '{n += $1 + $2} END {print n + 0}')
  [ "$ran" != 0 ] || { echo "overlane: the suite ran no test" >&2; return 1; }
  return "$code"
}
if [ $# -gt 0 ]; then
  run "$@"
  exit
fi
run --skip uninstall::
tests/kubernetes/e2e.sh short
run uninstall::
