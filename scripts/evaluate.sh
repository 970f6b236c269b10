#!/usr/bin/env bash
# Scores checkpoints: tokenised and detokenised BLEU, chrF, with sacrebleu's signature; a thin wrapper of
# `fairseq-dsp evaluate`, where all the work and all the help is.
#   scripts/evaluate.sh runs/joint/checkpoint_best.pt --data data/multi30k
#   scripts/evaluate.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -f "$root/scripts/common.sh" ]; then
    source "$root/scripts/common.sh"
    find_python
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m fairseq_dsp.cli evaluate "$@"
