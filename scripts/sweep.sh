#!/usr/bin/env bash
# Runs a study: every model of a table or a curve, trained, pruned, translated with and scored; a thin wrapper of
# `fairseq-dsp sweep`, where all the work and all the help is.
#   scripts/sweep.sh scripts/studies/quickstart.yaml
#   scripts/sweep.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -f "$root/scripts/common.sh" ]; then
    source "$root/scripts/common.sh"
    find_python
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m fairseq_dsp.cli sweep "$@"
