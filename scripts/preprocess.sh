#!/usr/bin/env bash
# Prepares a corpus for fairseq; all the work and all the help is in data-prep/prepare.py.
#   scripts/preprocess.sh multi30k data/multi30k --raw-dir corpora/multi30k
#   scripts/preprocess.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -f "$root/scripts/common.sh" ]; then
    source "$root/scripts/common.sh"
    find_python
fi
PYTHON=${PYTHON:-python3}
export PREPARE_NAME=${PREPARE_NAME:-scripts/preprocess.sh}
exec "$PYTHON" "$root/data-prep/prepare.py" "$@"
