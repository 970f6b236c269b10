#!/usr/bin/env bash
# From nothing to a table of BLEU against heads, offline and in minutes.
#
#   ./scripts/quickstart.sh
#
# Makes the virtual environment .venv with this package in it, generates the corpus `phrases` (German-English), trains a
# small unpruned model and jointly pruned ones at a few head counts, prints the table and five translations. 10 to
# 15 minutes on 2 cores, the installation included. What is there already is used again: data/phrases, results/quickstart.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "$0")")/common.sh"

help_if_asked "$@"

start=$SECONDS
one_thread
find_python
cd "$ROOT"

say "== 1. the corpus: data/phrases =="
scripts/preprocess.sh phrases data/phrases

say "== 2. training and pruning: results/quickstart =="
scripts/sweep.sh scripts/studies/quickstart.yaml --data data/phrases --results results/quickstart

say "== 3. five translations =="
for line in 10 20 30 40 50; do
  say ""
  printf '%-22s %s\n' source "$(sed -n ${line}p data/phrases/raw/test.de)" reference "$(sed -n ${line}p data/phrases/raw/test.en)"
  for run in results/quickstart/runs/*/translations.txt; do
    printf '%-22s %s\n' "$(basename "$(dirname "$run")")" "$(sed -n ${line}p "$run")"
  done
done
say ""
say "done in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s; a page with curves and head maps:"
say "$(printf '  %q -m fairseq_dsp.cli report %q' "$PYTHON" "$ROOT/results/quickstart")"
