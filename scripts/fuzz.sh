#!/usr/bin/env bash
# Fuzzes what the CNI plugin reads, each target for SECONDS (default 60), from the corpus of the ordinary tests.
#   scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-target}/fuzz
# What cargo-fuzz gives the compiler, without its sanitizers, which need a nightly one; there is no unsafe code here.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
CARGO_TARGET_DIR=$target_dir RUSTFLAGS=$flags \
  cargo build --release --locked --target "$host" --manifest-path fuzz/Cargo.toml
for name in call netconf; do
  mkdir -p "$target_dir/corpus/$name"
  "$target_dir/$host/release/$name" "$target_dir/corpus/$name" crates/api/tests/corpus \
    -artifact_prefix="$target_dir/" -max_total_time="${1:-60}" -print_final_stats=1 2>&1 |
    tee "$target_dir/$name.log" | grep -E "^Done|^stat::number|ERROR|panicked|artifact" || { echo "overlane: fuzz target $name failed" >&2; exit 1; }
done
