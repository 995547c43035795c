#!/usr/bin/env bash
# Makes the image of agent, controller, plugin and command line without a container engine: an OCI image layout in one
# tar file, and a bill of materials beside it. The same commit, toolchain and packages give the same digest.
#   image.sh BINARIES [ARCH]     BINARIES: directory of static release binaries; ARCH: amd64 (default) or arm64
# Writes target/image/overlane-VERSION-ARCH.tar and .cdx.json; prints the image's name and digest.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binaries=$(cd "$1" && pwd)
arch=${2:-amd64}
case $arch in
  amd64) triplet=x86_64-linux-gnu ;;
  arm64) triplet=aarch64-linux-gnu ;;
  *) echo "image.sh: no image for $arch: amd64 and arm64 are known" >&2; exit 2 ;;
esac
for program in jq tar gzip sha256sum dpkg-deb apt-get; do
  command -v "$program" >/dev/null || { echo "image.sh: $program is missing: run scripts/setup.sh" >&2; exit 2; }
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# Every time in the image is the commit's.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
name=${OVERLANE_IMAGE:-overlane:$version}
out=target/image
cache=$out/packages-$arch
mkdir -p "$out" "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- the files ---
# An apt of its own: another architecture's packages are none of this machine's business.
apt=(apt-get -q -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$work/apt/state"
  -o "Dir::Cache=$work/apt/cache" -o "APT::Sandbox::User=root" -o "Dir::State::status=$work/apt/status")
fetch() { # PACKAGE VERSION: puts the package into the cache
  local package=$1 version=$2
  local file="$cache/${package}_${version//:/%3a}_$arch.deb"
  [ -s "$file" ] && { echo "$file"; return; }
  if [ ! -e "$work/apt/status" ]; then
    mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
    : >"$work/apt/status"
    "${apt[@]}" update >"$work/apt/log" 2>&1 || { cat "$work/apt/log" >&2; return 2; }
  fi
  if ! (cd "$cache" && "${apt[@]}" download "$package=$version") >"$work/apt/log" 2>&1; then
    echo "image.sh: Debian has $package $version no more; the newest is taken, and the digest differs" >&2
    (cd "$cache" && "${apt[@]}" download "$package") >"$work/apt/log" 2>&1 || { cat "$work/apt/log" >&2; return 2; }
    file=$(ls -t "$cache/${package}_"*"_$arch.deb" | head -1)
  fi
  echo "$file"
}
root=$work/root
nft=$work/nft
mkdir -p "$root/usr/bin" "$root/usr/share/doc/overlane" "$nft" "$work/unpacked"
taken=()
while read -r package wanted; do
  case $package in '' | '#'*) continue ;; esac
  file=$(fetch "$package" "$wanted")
  taken+=("$package=$(dpkg-deb -f "$file" Version)")
  dpkg-deb -x "$file" "$work/unpacked"
done <deploy/image/nft.packages
# Only what nft loads, under the names that it asks for, and each package's licence.
keep() { # FILE: copies a file, and where it is a link also what it leads to
  local path=$1
  mkdir -p "$nft/$(dirname "$path")"
  cp -a "$work/unpacked/$path" "$nft/$path"
  if [ -L "$work/unpacked/$path" ]; then
    local target
    target=$(readlink "$work/unpacked/$path")
    case $target in /*) keep "${target#/}" ;; *) keep "$(realpath -m --relative-to="$work/unpacked" "$(dirname "$work/unpacked/$path")/$target")" ;; esac
  fi
}
keep usr/sbin/nft
for library in libnftables.so.1 libmnl.so.0 libnftnl.so.11 libxtables.so.12 libjansson.so.4 libgmp.so.10 libedit.so.2 \
  libtinfo.so.6 libbsd.so.0 libmd.so.0 libc.so.6; do
  for dir in "lib/$triplet" "usr/lib/$triplet"; do
    [ -e "$work/unpacked/$dir/$library" ] || [ -L "$work/unpacked/$dir/$library" ] || continue
    keep "$dir/$library"
  done
done
case $arch in
  amd64) keep lib64/ld-linux-x86-64.so.2 ;;
  arm64) keep lib/ld-linux-aarch64.so.1 ;;
esac
for word in "${taken[@]}"; do
  package=${word%%=*}
  mkdir -p "$nft/usr/share/doc/$package"
  cp "$work/unpacked/usr/share/doc/$package/copyright" "$nft/usr/share/doc/$package/copyright" 2>/dev/null ||
    rmdir "$nft/usr/share/doc/$package" # a link to another package's
done
for program in overlane overlane-agent overlane-controller overlane-cni; do
  file=$binaries/$program
  [ -x "$file" ] || { echo "image.sh: $file is missing: run 'make release'" >&2; exit 2; }
  if readelf -l "$file" | grep 'Requesting program interpreter' >/dev/null; then
    echo "image.sh: $file is not static: the image has no libraries for it; run 'make release'" >&2
    exit 2
  fi
  install -m 755 "$file" "$root/usr/bin/$program"
done
# What kubectl runs for `kubectl overlane`.
ln -s overlane "$root/usr/bin/kubectl-overlane"
cp LICENSE "$root/usr/share/doc/overlane/LICENSE"
scripts/sbom.sh "$revision" "$created" "${taken[@]}" >"$work/sbom.json"
cp "$work/sbom.json" "$root/usr/share/doc/overlane/sbom.cdx.json"

# --- the image ---
layout=$work/layout
mkdir -p "$layout/blobs/sha256"
blob() { # FILE MEDIA-TYPE: puts a file into the layout and prints its descriptor
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  cp "$1" "$layout/blobs/sha256/$digest"
  jq -cn --arg t "$2" --arg d "sha256:$digest" --argjson s "$size" '{mediaType: $t, digest: $d, size: $s}'
}
pack() { # DIRECTORY FILE: a tar with nothing in it that changes from one run to the next
  # Modes too: of the checkout and of whoever runs this, the umask is part.
  find "$1" -type d -exec chmod 755 {} +
  find "$1" -type f -perm /111 -exec chmod 755 {} +
  find "$1" -type f ! -perm /111 -exec chmod 644 {} +
  tar -C "$1" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=gnu -cf "$2" .
}
layers='[]'
diff_ids='[]'
for dir in nft root; do
  pack "$work/$dir" "$work/$dir.tar"
  diff_ids=$(jq -c --arg d "sha256:$(sha256sum "$work/$dir.tar" | cut -d' ' -f1)" '. + [$d]' <<<"$diff_ids")
  gzip -n -6 <"$work/$dir.tar" >"$work/$dir.tar.gz"
  layers=$(jq -c --argjson l "$(blob "$work/$dir.tar.gz" application/vnd.oci.image.layer.v1.tar+gzip)" '. + [$l]' <<<"$layers")
done
jq -cn --arg arch "$arch" --arg created "$created" --arg version "$version" --arg revision "$revision" --argjson ids "$diff_ids" '{
  architecture: $arch, os: "linux", created: $created,
  config: {
    Env: ["PATH=/usr/bin:/usr/sbin"], Entrypoint: ["/usr/bin/overlane"],
    Labels: {
      "org.opencontainers.image.title": "overlane", "org.opencontainers.image.version": $version,
      "org.opencontainers.image.revision": $revision, "org.opencontainers.image.licenses": "Apache-2.0"
    }
  },
  rootfs: {type: "layers", diff_ids: $ids},
  history: [
    {created: $created, created_by: "nft and its libraries, from Debian"},
    {created: $created, created_by: "overlane"}
  ]
}' >"$work/config.json"
config=$(blob "$work/config.json" application/vnd.oci.image.config.v1+json)
jq -cn --argjson config "$config" --argjson layers "$layers" '{
  schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: $layers
}' >"$work/manifest.json"
manifest=$(blob "$work/manifest.json" application/vnd.oci.image.manifest.v1+json)
# Importers want a whole name: a bare one is the default registry's.
whole=$name
case $name in */*) ;; *) whole=docker.io/library/$name ;; esac
jq -cn --argjson m "$manifest" --arg name "$whole" --arg arch "$arch" '{
  schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
  manifests: [$m + {
    platform: {architecture: $arch, os: "linux"},
    annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": ($name | split(":") | last)}
  }]
}' >"$layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
# For `docker load` of engines that know no layouts.
jq -cn --argjson config "$config" --argjson layers "$layers" --arg name "$name" '
  def path: "blobs/sha256/" + ltrimstr("sha256:");
  [{Config: ($config.digest | path), RepoTags: [$name], Layers: [$layers[].digest | path]}]
' >"$layout/manifest.json"
file=$out/overlane-$version-$arch.tar
pack "$layout" "$file"
cp "$work/sbom.json" "$out/overlane-$version-$arch.cdx.json"
echo "$name $(jq -r .digest <<<"$manifest") $(($(stat -c %s "$file") / 1048576)) MiB $file"
