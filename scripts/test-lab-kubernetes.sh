#!/usr/bin/env bash
# Runs the lab's suites on labs that have the real kube-apiserver (`overlane lab up --api kubernetes`), so that what the
# lab's own API does otherwise shows. The same binaries, the same tests.
#   scripts/test-lab-kubernetes.sh [SUITE...] [-- FILTER...]
# Set by the environment: OVERLANE_KUBERNETES_BIN (target/kubernetes/bin), and what scripts/test-root.sh takes.
#
# Left out, each with its reason:
#   harness          tries the suites' own tools; one lab of it would show nothing that `labs` does not
#   cni, ipam, kill  ask agents through the plugin; what the API server answers is nothing that they look at
#   policy           writes policies that the real one refuses, as one of another version would take them
#   foreign          is about other programs' objects in the kernel
#   kubernetes       has a real cluster already: scripts/test-kubernetes.sh
# Name one, and it is run all the same.
set -euo pipefail
cd "$(dirname "$0")/.."
export OVERLANE_LAB_API=kubernetes
export OVERLANE_KUBERNETES_BIN=${OVERLANE_KUBERNETES_BIN:-$PWD/target/kubernetes/bin}
suites=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do suites+=("$1"); shift; done
[ "${#suites[@]}" -gt 0 ] || suites=(connectivity lifecycle masq labs)
exec scripts/test-root.sh "${suites[@]}" "$@"
