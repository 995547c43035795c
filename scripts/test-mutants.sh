#!/usr/bin/env bash
# Plants faults in the product, one at a time, in a copy of the tree; fails if the suite that must notice one does not.
#   scripts/test-mutants.sh [NAME...]     names of files in tests/mutants, without ending; all without
# A mutant is a file of `key: value` lines (about, suite, filter, program, file) and, after `---`, a sed script for that
# file. Only the program named is built anew. A suite `crate:NAME` is a test of the crates, and has no program.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "overlane: the suites make network namespaces and need root: run this as root" >&2
  exit 2
fi
root=$PWD
work=$root/target/mutants
tree=$work/tree
target=$work/target
bin=$work/bin
suites_target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$work"
# What was built of others' crates need not be built again.
if [ ! -d "$target" ] && [ -d "$suites_target/debug" ]; then
  mkdir -p "$target/debug"
  for part in .fingerprint build deps; do cp -a --reflink=auto "$suites_target/debug/$part" "$target/debug/"; done
fi

field() { sed -nE "/^---$/q; s/^$2: *//p" "$1"; }
script() { sed '1,/^---$/d' "$1"; }

mutants=()
if [ "$#" -gt 0 ]; then
  for name in "$@"; do mutants+=("tests/mutants/$name.mutant"); done
else
  mutants=(tests/mutants/*.mutant)
fi

# A copy of what is in the working tree, so that an interrupted run leaves no fault in the real one. Its files are newer
# than whatever an earlier run built.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  [ -f "$file" ] && printf '%s\0' "$file"
done | tar --null -T - -cf - | tar -xmf - -C "$tree"

build() { (cd "$tree" && CARGO_TARGET_DIR=$target cargo build --locked --workspace "$@") >"$work/build.log" 2>&1; }
# Runs a suite against the binaries of the copy. Prints how many tests ran and how many failed.
judge() { # suite, filter, log
  if [[ $1 == crate:* ]]; then
    (cd "$tree" && CARGO_TARGET_DIR=$target cargo test --locked --workspace --all-features --test "${1#crate:}" -- ${2:+$2}) >"$3" 2>&1 || true
    sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$3" | awk '{p += $1; f += $2} END {print p + f + 0, f + 0}'
    return
  fi
  if [ "$1" = kubernetes ]; then
    # A cluster of its own, installed by the copy's command line from the unchanged image.
    CARGO_TARGET_DIR=$suites_target scripts/test-kubernetes.sh "$bin" "$(ls target/image/*-amd64.tar)" install::a_ "$2" >"$3" 2>&1 || true
    sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$3" | awk '{p += $1; f += $2} END {print p + f + 0, f + 0}'
    return
  fi
  CARGO_TARGET_DIR=$suites_target OVERLANE_BIN=$bin cargo test --locked -p overlane-suites \
    --features root-tests --test "$1" -- --test-threads=2 ${2:+$2} >"$3" 2>&1 || true
  sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$3" | awk '{p += $1; f += $2} END {print p + f + 0, f + 0}'
}

echo "building the unchanged copy"
if ! build --bins; then
  tail -30 "$work/build.log" >&2
  exit 1
fi
programs=(overlane overlane-agent overlane-cni overlane-controller)
rm -rf "$bin" "$work/healthy"
mkdir -p "$bin" "$work/healthy"
for program in "${programs[@]}"; do cp "$target/debug/$program" "$work/healthy/"; cp --remove-destination "$target/debug/$program" "$bin/"; done
if grep -q '^suite: kubernetes' "${mutants[@]}" && ! ls target/image/*-amd64.tar >/dev/null 2>&1; then
  echo "test-mutants.sh: no image in target/image: run 'make image'" >&2
  exit 2
fi
# A suite that fails without a fault would catch every mutant.
declare -A healthy
table=$(printf '%-28s %-14s %-9s %s' mutant suite verdict about)
bad=0
for mutant in "${mutants[@]}"; do
  name=$(basename "$mutant" .mutant) about=$(field "$mutant" about)
  suite=$(field "$mutant" suite) filter=$(field "$mutant" filter)
  program=$(field "$mutant" program) file=$(field "$mutant" file)
  echo "== $name: $about"
  if [ -z "${healthy[$suite/$filter]:-}" ]; then
    read -r ran failed < <(judge "$suite" "$filter" "$work/$suite-$filter.healthy.log")
    healthy[$suite/$filter]=yes
    if [ "$ran" = 0 ] || [ "$failed" != 0 ]; then
      healthy[$suite/$filter]=no
      tail -30 "$work/$suite-$filter.healthy.log" >&2
    fi
  fi
  verdict=caught
  cp "$tree/$file" "$work/original"
  script "$mutant" | sed -E -f - "$work/original" >"$tree/$file"
  if [ "${healthy[$suite/$filter]}" = no ]; then
    verdict=unhealthy
  elif cmp -s "$tree/$file" "$work/original"; then
    verdict=stale
  elif [ -n "$program" ] && ! build --bin "$program"; then
    verdict=unbuilt
    tail -30 "$work/build.log" >&2
  else
    [ -z "$program" ] || cp --remove-destination "$target/debug/$program" "$bin/"
    read -r ran failed < <(judge "$suite" "$filter" "$work/$name.log")
    [ "$ran" = 0 ] && verdict=no-tests
    [ "$ran" != 0 ] && [ "$failed" = 0 ] && verdict=MISSED
  fi
  # Newer than what was built of the fault: the next build takes it up.
  cp "$work/original" "$tree/$file"
  [ -z "$program" ] || cp --remove-destination "$work/healthy/$program" "$bin/"
  [ "$verdict" = caught ] || bad=1
  table+=$'\n'$(printf '%-28s %-14s %-9s %s' "$name" "$suite" "$verdict" "$about")
  echo "   $verdict"
done
echo
echo "$table"
if [ "$bad" != 0 ]; then
  echo "overlane: not every planted fault was caught (MISSED), or a mutant no longer fits the code (stale, unbuilt); logs in $work" >&2
fi
exit $bad
