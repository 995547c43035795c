#!/usr/bin/env bash
# Installs Debian packages, and says what apt said only if it failed.
set -euo pipefail
[ $# -gt 0 ] || exit 0
echo "installing: $*"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "overlane: apt-get could not install $*: see above" >&2
  exit 2
fi
