#!/usr/bin/env bash
# Scores checkpoints: tokenised and detokenised BLEU, chrF, with sacrebleu's signature; a thin wrapper of
# `fairseq-dsp evaluate`, where all the work and all the help is.
#   scripts/evaluate.sh runs/joint/checkpoint_best.pt --data data/multi30k
#   scripts/evaluate.sh --help
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "$0")")/common.sh"
run_command evaluate "$@"
