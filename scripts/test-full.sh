#!/usr/bin/env bash
# The long forms of tests that .ci/run has in short: 500 calls with 200 kills inside, the API away for a minute.
# Resumable: what has passed for this commit is not run again. Writes docs/reports/full.md.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(
  "kill agent_killed_after_each_call_of_an_add"
  "kill agent_killed_after_each_call_of_a_del"
  "kill plugin_killed_after_each_of_its_calls"
  "kill agent_killed_at_random_moments"
  "kill plugin_killed_at_random_moments"
  "labs many_nodes_come_up"
  "lifecycle pods_start_and_end_while_the_api_is_away"
)
paths=(crates scripts Cargo.toml Cargo.lock)
commit=$(git rev-parse --short=12 HEAD)
if [ -n "$(git status --porcelain -- "${paths[@]}")" ]; then
  commit="$commit-changed-$(git ls-files -co --exclude-standard -z -- "${paths[@]}" | xargs -0 cat 2>/dev/null | sha256sum | cut -c1-8)"
fi
done_dir="${CARGO_TARGET_DIR:-target}/full/$commit"
mkdir -p "$done_dir"
for entry in "${tests[@]}"; do
  read -r suite name <<<"$entry"
  if [ -e "$done_dir/$name" ]; then
    echo "== $name passed before"
    continue
  fi
  began=$(date +%s)
  OVERLANE_FULL=1 OVERLANE_TEST_THREADS=1 scripts/test-root.sh "$suite" -- --nocapture "$name" | tee "$done_dir/$name.log"
  said=$(sed -nE 's/^(test .*\.\.\. )?((Agent|Plugin): [0-9]+ calls.*|an? (ADD|DEL) and what.*|(ADD|DEL): the plugin died.*)$/\2/p' "$done_dir/$name.log" | paste -sd ';')
  echo "| $suite | $name | ${said:-passed} | $(($(date +%s) - began)) |" >"$done_dir/$name"
done
mkdir -p docs/reports
{
  echo "# The long tests"
  echo
  echo "\`make test-full\`, commit $commit."
  echo
  echo "| suite | test | what happened | seconds |"
  echo "| --- | --- | --- | --- |"
  for entry in "${tests[@]}"; do cat "$done_dir/${entry#* }"; done
} >docs/reports/full.md
cat docs/reports/full.md
