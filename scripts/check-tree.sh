#!/usr/bin/env bash
# What must not be committed: binaries, paths of somebody's machine, hosts of registries.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
while IFS= read -r -d '' file; do
  [ -f "$file" ] || continue
  if [ -s "$file" ] && ! grep -qI . "$file"; then echo "binary file: $file" >&2; bad=1; fi
done < <(git ls-files -z)
if git grep -nE '(^|[^A-Za-z0-9_.-])/(home|root|Users)/[a-z]|/work/main|artifactory|index\.crates\.io' -- ':!scripts/check-tree.sh' ':!Cargo.lock'; then
  echo "machine paths or registry hosts above" >&2; bad=1
fi
exit $bad
