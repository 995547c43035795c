#!/usr/bin/env bash
# Installs the Debian packages that a real Kubernetes on this machine takes. Does nothing where all are there.
set -euo pipefail
# program or file -> package
declare -A need=(
  [etcd]=etcd-server [etcdctl]=etcd-client [/usr/include/seccomp.h]=libseccomp-dev [busybox]=busybox-static [dig]=bind9-dnsutils [dash]=dash
  [nc.openbsd]=netcat-openbsd [openssl]=openssl [ip]=iproute2 [nsenter]=util-linux [jq]=jq [curl]=curl [wget]=wget [cc]=build-essential
  [/usr/lib/python3/dist-packages/yaml/__init__.py]=python3-yaml [bc]=bc [pgrep]=procps [nft]=nftables [iptables]=iptables [ipset]=ipset [conntrack]=conntrack
)
missing=()
for program in "${!need[@]}"; do
  command -v "$program" >/dev/null 2>&1 || [ -e "$program" ] || missing+=("${need[$program]}")
done
"$(dirname "$0")/../../scripts/apt-install.sh" "${missing[@]}"
# Debian starts an etcd of its own, which nobody asked for.
case " ${missing[*]} " in *" etcd-server "*) systemctl disable --now etcd 2>/dev/null || true ;; esac
command -v go >/dev/null 2>&1 || { echo "overlane: go is missing: Kubernetes is built from its Go modules" >&2; exit 2; }
