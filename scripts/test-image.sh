#!/usr/bin/env bash
# The image is reproducible: made again from the same binaries, by somebody with another umask, it has the same digest.
#   test-image.sh BINARIES IMAGE
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
digest() { tar -xOf "$1" ./index.json | jq -r '.manifests[0].digest'; }
first=$(digest "$2")
(umask 077 && scripts/image.sh "$1" amd64 >/dev/null)
again=$(digest "$2")
[ "$first" = "$again" ] || { echo "test-image.sh: $2 had digest $first, made again it has $again" >&2; exit 1; }
echo "the image made again has the same digest"
