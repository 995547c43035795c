#!/usr/bin/env bash
# One release after another on a real Kubernetes, and back: installs the old one, upgrades and downgrades by either's
# command line while pods talk, start and end, and ends the cluster. Nothing may be lost.
#   scripts/test-kubernetes-upgrade.sh OLD_BINARIES OLD_IMAGE NEW_BINARIES NEW_IMAGE
# The old ones by `make image` in a worktree of the old commit; both may have one version. Set by the environment:
# KEEP=1 leaves the cluster; OVERLANE_KUBERNETES where the parts are built.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 4 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "overlane: a cluster of namespaces needs root: run this as root" >&2; exit 2; }
export NAME=${NAME:-ovk} OVERLANE_CLUSTER=$PWD/tests/kubernetes/cluster.sh
OVERLANE_OLD_BIN=$(realpath "$1") OVERLANE_BIN=$(realpath "$3")
export OVERLANE_OLD_BIN OVERLANE_BIN
old=$(realpath "$2") new=$(realpath "$4")
work=$(mktemp -d)
finish() {
  code=$?
  rm -rf "$work"
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
renamed() { # IMAGE TAG: the image as overlane:TAG, in an archive TAG.tar
  mkdir "$work/$2"
  tar -xf "$1" -C "$work/$2"
  jq -c --arg name "docker.io/library/overlane:$2" '.manifests[0].annotations["io.containerd.image.name"] = $name' \
    "$work/$2/index.json" >"$work/index.json"
  mv "$work/index.json" "$work/$2/index.json"
  tar -C "$work/$2" -cf "$work/$2.tar" .
}
renamed "$old" old
renamed "$new" new
"$OVERLANE_CLUSTER" import "$work/old.tar" "$work/new.tar"
log=$work/log
code=0
cargo test --locked -p overlane-suites --features root-tests --test kubernetes_upgrade -- --test-threads=1 --nocapture 2>&1 |
  tee "$log" || code=$?
grep -q '^test result: .* [1-9][0-9]* passed' "$log" || { echo "overlane: the suite ran no test to its end" >&2; exit 1; }
exit "$code"
