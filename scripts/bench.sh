#!/usr/bin/env bash
# All benchmarks, one after the other: they must not share the machine with each other.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${OVERLANE_BIN:?directory of the release binaries}
out=target/bench
mkdir -p "$out"
for what in ${OVERLANE_BENCH:-cni packets scale}; do
  "$bin/overlane-bench" --bin "$bin" --out "$out" "$what" | tee "$out/$what.txt"
done
