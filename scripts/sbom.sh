#!/usr/bin/env bash
# Prints the image's bill of materials, CycloneDX 1.6: the crates that its programs are built from, at the versions of
# Cargo.lock, and the Debian packages given.
#   sbom.sh REVISION TIME [PACKAGE=VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$1 created=$2
shift 2
# What the four programs need to run; not what builds or tests them.
roots=(overlane-cli overlane-agent overlane-controller overlane-cni)
crates() {
  for root in "${roots[@]}"; do
    cargo tree --locked --quiet -p "$root" -e normal --prefix none --format '{p}|{l}'
  done | sed 's/ (\*)//; s/ (proc-macro)//; s/ (\/[^)]*)//' | LC_ALL=C sort -u
}
crates | jq -Rn --arg revision "$revision" --arg created "$created" --arg packages "$*" '
  def crate: capture("^(?<name>[^ ]+) v(?<version>[^|]+)\\|(?<license>.*)$")
    | {type: "library", name, version, purl: "pkg:cargo/\(.name)@\(.version)"}
      + (if .license == "" then {} else {licenses: [{expression: (.license | gsub("/"; " OR "))}]} end);
  def package: capture("^(?<name>[^=]+)=(?<version>.*)$")
    | {type: "library", name, version, purl: "pkg:deb/debian/\(.name)@\(.version | @uri)"};
  {
    bomFormat: "CycloneDX", specVersion: "1.6", version: 1,
    metadata: {timestamp: $created, component: {type: "container", name: "overlane", version: $revision}},
    components: ([inputs | crate] + [$packages | split(" ")[] | select(. != "") | package])
  }'
