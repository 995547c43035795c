#!/usr/bin/env bash
# Dependency rules of ARCHITECTURE.md: what a crate must never pull in.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
forbid() { # crate, pattern of crate names, reason
  local found
  found=$(cargo tree --locked -p "$1" -e normal --prefix none --format '{p}' | awk '{print $1}' | sort -u | grep -vx "$1" | grep -xE "$2" || true)
  if [ -n "$found" ]; then
    echo "$1 must not depend on: $(tr '\n' ' ' <<<"$found")($3)" >&2
    bad=1
  fi
}
forbid overlane-core 'tokio|kube.*|serde.*|nix|libc|netlink-.*|k8s-openapi|tracing.*' 'core has no I/O and no wire format'
forbid overlane-datapath 'tokio|kube.*|k8s-openapi|overlane-api' 'the datapath does not talk to Kubernetes'
forbid overlane-cni 'tokio|kube.*|k8s-openapi|hyper.*|clap.*|overlane-core' 'the plugin starts once a pod and must stay small'
forbid overlane-controller 'netlink-.*|overlane-datapath|overlane-lab|overlane-apiserver' 'the controller has no hands on a kernel'
forbid overlane-agent 'overlane-lab|overlane-apiserver|overlane-controller' 'nothing of the lab is in the product'
forbid overlane-install 'overlane-(agent|controller|datapath|lab|apiserver|daemon)' 'what is installed is data'
forbid overlane-daemon 'overlane-.*' 'every daemon has it, whatever it does'
forbid overlane-suites 'overlane-.*' 'the suites judge from outside'
forbid overlane-policy-reference 'overlane-.*' 'it is what the compiler is compared with'
for crate in core api datapath cni daemon agent controller install apiserver lab cli; do
  forbid "overlane-$crate" 'overlane-cli|overlane-bench|overlane-suites' 'nothing points into a binary'
done
grep -rnE '\b(SystemTime|Instant)::now|thread_rng|std::env::|std::fs::|std::net::(Tcp|Udp)' crates/core/src && { echo "core must not read clock, chance, environment or files" >&2; bad=1; }
exit $bad
