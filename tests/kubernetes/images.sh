#!/usr/bin/env bash
# Makes the images that the suites' pods run, as archives that `ctr images import` takes: no registry is asked.
# One root file system serves Kubernetes' test images: its agnhost, and the programs that the specs call inside.
#   images.sh        writes $OVERLANE_KUBERNETES/images/*.tar; does nothing where all are there and current
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OVERLANE_KUBERNETES:-$here/../../target/kubernetes}
out=$(cd "$out" && pwd)
images=$out/images
stamp=$(cat "$0" "$out"/stamps/{agnhost,coredns,pause} | sha256sum | cut -c1-32)
[ "$(cat "$images/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$images"
mkdir -p "$images"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# with_libraries ROOT PROGRAM PATH: a program at a path of a root, and every library that it loads
with_libraries() {
  local root=$1 program path=$3
  program=$(readlink -f "$(command -v "$2")")
  mkdir -p "$root/$(dirname "$path")"
  cp "$program" "$root/$path"
  { ldd "$program" 2>/dev/null || true; } | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
}

# archive FILE ROOT CONFIG NAME...: a docker archive of one layer
archive() {
  local file=$1 root=$2 config=$3
  shift 3
  local dir
  dir=$(mktemp -d -p "$work")
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$dir/layer.tar" .
  jq -cn --argjson config "$config" --arg id "sha256:$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)" \
    '{architecture: "amd64", os: "linux", created: "1970-01-01T00:00:00Z", config: $config, rootfs: {type: "layers", diff_ids: [$id]}}' >"$dir/config.json"
  jq -cn '[{Config: "config.json", RepoTags: $ARGS.positional, Layers: ["layer.tar"]}]' --args "$@" >"$dir/manifest.json"
  tar -C "$dir" -cf "$images/$file" manifest.json config.json layer.tar
}

mkdir -p "$work/pause"
cp "$out/bin/pause" "$work/pause/pause"
archive pause.tar "$work/pause" '{"Entrypoint":["/pause"],"User":"65535:65535"}' registry.k8s.io/pause:3.10 \
  registry.k8s.io/pause:3.10.1 registry.k8s.io/pause:3.10.2

mkdir -p "$work/coredns"
cp "$out/bin/coredns" "$work/coredns/coredns"
archive coredns.tar "$work/coredns" '{"Entrypoint":["/coredns"]}' overlane.test/coredns:1

root=$work/test
mkdir -p "$root"/{bin,usr/bin,tmp,etc,root,var}
chmod 1777 "$root/tmp"
cp "$out/bin/agnhost" "$root/agnhost"
# What it serves TLS with.
porter=$(cd "$here" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter
cp "$porter/localhost.crt" "$porter/localhost.key" "$root/"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
  [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
done
# busybox's shell would run its own nc, and the specs know OpenBSD's flags only.
# Its wget is linked statically and falls over the C library's name lookup now and then.
rm -f "$root"/bin/{sh,nc,nslookup,wget}
with_libraries "$root" dash bin/dash
ln -s dash "$root/bin/sh"
with_libraries "$root" bash bin/bash
with_libraries "$root" nc.openbsd bin/nc
for program in curl wget dig nslookup getent; do with_libraries "$root" "$program" "usr/bin/$program"; done
# What getent and curl load when they look a name up.
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
  # It reads to the end: a reader that leaves early ends `ldconfig` by SIGPIPE, now and then.
  found=$(ldconfig -p | awk -v l="$library" '$1 == l && !found {found = $NF} END {print found}')
  [ -z "$found" ] || { mkdir -p "$root$(dirname "$found")"; cp -L "$found" "$root$found"; }
done
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# The specs count on one try, as busybox's has it.
echo 'tries = 1' >"$root/etc/wgetrc"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
e2e=registry.k8s.io/e2e-test-images
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
archive agnhost.tar "$root" "{$path,\"Entrypoint\":[\"/agnhost\"],\"Cmd\":[\"pause\"],\"ExposedPorts\":{\"80/tcp\":{},\"8080/tcp\":{},\"8081/tcp\":{},\"9376/tcp\":{},\"5000/tcp\":{}}}" $e2e/agnhost:2.63.0
archive busybox.tar "$root" "{$path,\"Cmd\":[\"sh\"]}" $e2e/busybox:1.37.0-1 $e2e/glibc-dns-testing:2.0.0
echo "$stamp" >"$images/stamp"
ls -la "$images"
