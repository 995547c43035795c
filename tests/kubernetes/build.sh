#!/usr/bin/env bash
# Builds the parts of a real Kubernetes that the suites run, from the Go modules declared beside this script, into
# $OVERLANE_KUBERNETES (default target/kubernetes) as bin/PROGRAM. What is there already, from the same modules and the
# same commands, is not built again.
#   build.sh [PROGRAM...]     all of the short suite's where none is named; `build.sh e2e.test` for the full one's
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OVERLANE_KUBERNETES:-$here/../../target/kubernetes}
mkdir -p "$out/bin" "$out/stamps"
out=$(cd "$out" && pwd)
kubernetes=v1.36.3
short=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl agnhost containerd ctr
  containerd-shim-runc-v2 runc coredns helm pause e2e.test)
version=k8s.io/component-base/version
minor=${kubernetes#v1.}
ldflags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"

# build PROGRAM: one line each, so that the stamp of a program is what it is made from
build() {
  local program=$1 target=$out/bin/$1
  case $program in
    kube-apiserver | kube-controller-manager | kube-scheduler | kubelet | kube-proxy | kubectl)
      in_module . go build -trimpath -ldflags "$ldflags" -o "$target" "k8s.io/kubernetes/cmd/$program" ;;
    agnhost) in_module . go build -trimpath -ldflags "$ldflags" -o "$target" k8s.io/kubernetes/test/images/agnhost ;;
    e2e.test) in_module . go test -c -trimpath -ldflags "$ldflags" -o "$target" k8s.io/kubernetes/test/e2e ;;
    containerd | ctr | containerd-shim-runc-v2)
      in_module containerd go build -trimpath -ldflags '-s -w' -o "$target" \
        "github.com/containerd/containerd/v2/cmd/$program" ;;
    runc)
      CGO=1 in_module containerd go build -trimpath -ldflags '-s -w' -tags seccomp -o "$target" \
        github.com/opencontainers/runc ;;
    coredns) in_module coredns go build -trimpath -ldflags '-s -w' -o "$target" github.com/coredns/coredns ;;
    helm) in_module helm go build -trimpath -ldflags '-s -w' -o "$target" helm.sh/helm/v4/cmd/helm ;;
    pause) cc -static -Os -s -o "$target" "$here/images/pause.c" ;;
    *) echo "build.sh: no program is called $program" >&2; return 2 ;;
  esac
}

in_module() {
  local module=$1
  shift
  (cd "$here/$module" && CGO_ENABLED=${CGO:-0} "$@")
}

# what a program is made from: its module's versions, this script, the toolchain, its own sources
stamp() {
  local module=.
  case $1 in
    containerd* | ctr | runc) module=containerd ;;
    coredns | helm) module=$1 ;;
  esac
  { cat "$here/$module/go.mod" "$here/$module/go.sum" "$0"; go version; [ "$1" != pause ] || cat "$here/images/pause.c"; } |
    sha256sum | cut -c1-32
}

programs=("$@")
[ "${#programs[@]}" -gt 0 ] || programs=("${short[@]}")
for program in "${programs[@]}"; do
  want=$(stamp "$program")
  if [ -x "$out/bin/$program" ] && [ "$(cat "$out/stamps/$program" 2>/dev/null)" = "$want" ]; then
    continue
  fi
  start=$SECONDS
  echo "building $program"
  build "$program"
  echo "$want" >"$out/stamps/$program"
  echo "built $program in $((SECONDS - start)) s, $(($(stat -c %s "$out/bin/$program") / 1048576)) MiB"
done
