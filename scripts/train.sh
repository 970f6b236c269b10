#!/usr/bin/env bash
# Trains a model with fairseq-train: the languages come from the prepared corpus, the recipe is given below.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/train.sh DATA SAVE_DIR [fairseq-train options]

Trains a translation model on a corpus that scripts/preprocess.sh prepared, and keeps its checkpoints in SAVE_DIR; the
same command goes on from the last checkpoint after an interruption.

  DATA      folder with prepare.json, as scripts/preprocess.sh wrote it
  SAVE_DIR  folder for checkpoint_best.pt and checkpoint_last.pt
  options   any of fairseq-train's; they come last and win over this recipe:
HELP
    printf '              %s\n' "${recipe[@]}"
    cat <<'HELP'

Options of head pruning: --heads-to-keep K, --cooldown-updates (about 30% of the run; 90% with --freeze-weights or the
selection gumbel), --head-selection simple|gumbel|ste|hard_concrete|fixed, --pruning-lr, --freeze-weights …
`fairseq-train --user-dir fairseq_dsp --arch transformer_dsp --help` explains them all.

Without a GPU the training uses all cores; OMP_NUM_THREADS=N gives it N.

examples:
  scripts/train.sh data/multi30k runs/base --arch transformer_dsp_iwslt_de_en --share-all-embeddings \
      --warmup-updates 600 --max-update 3000
  scripts/train.sh data/multi30k runs/k36 --arch transformer_dsp_iwslt_de_en --share-all-embeddings \
      --warmup-updates 600 --max-update 3000 --heads-to-keep 36 --cooldown-updates 900
HELP
}

# last OPTION DEFAULT ARGUMENT…: what the arguments give for an option, the last time they do
last() {
    local option=$1 value=$2
    shift 2
    while [ $# -gt 0 ]; do
        case "$1" in
            "$option") value=${2:-} ;;
            "$option"=*) value=${1#*=} ;;
        esac
        shift
    done
    echo "$value"
}

recipe=(
    "--arch transformer_dsp --task translation_dsp"
    "--criterion label_smoothed_cross_entropy_dsp --label-smoothing 0.1"
    "--optimizer adam --adam-betas (0.9,0.98) --weight-decay 1e-4 --dropout 0.3"
    "--lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --max-tokens 4096 --required-batch-size-multiple 1 --no-epoch-checkpoints"
)

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
esac
if [ $# -lt 2 ] || [[ "$1" == -* ]] || [[ "$2" == -* ]]; then
    echo "error: DATA and SAVE_DIR are expected first; scripts/train.sh --help explains" >&2
    exit 2
fi
data=$1 save_dir=$2
shift 2

# not all optimisers, criteria and schedulers take the options of the recipe's
case "$(last --optimizer adam "$@")" in
    adam | cpu_adam) ;;
    *) recipe=("${recipe[@]/ --adam-betas (0.9,0.98)/}") ;;
esac
case "$(last --criterion label_smoothed "$@")" in
    *label_smoothed*) ;;
    *) recipe=("${recipe[@]/ --label-smoothing 0.1/}") ;;
esac
case "$(last --lr-scheduler inverse_sqrt "$@")" in
    cosine | fixed | inverse_sqrt | polynomial_decay | reduce_lr_on_plateau | step) ;;
    *) recipe=("${recipe[@]/ --warmup-updates 4000/}") ;;
esac

source "$(dirname "$(readlink -f "$0")")/common.sh"
find_python
summary=$("$PYTHON" - "$data" <<'PY'
import sys
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.prepared import PreparedData
try:
    data = PreparedData.read(sys.argv[1])
    data.check_trainable()
except UserError as error:
    sys.exit(f"error: {error}")
if data.classifies:
    sys.exit(
        f"error: {data.folder} holds texts with labels, but this script trains translation models: "
        "docs/guide/classifiers.md shows how to train a classifier"
    )
print(*data.languages, data.training_data)
PY
)
read -r source_lang target_lang data_bins <<<"$summary"
# imported before fairseq, this package keeps what fairseq says of itself from the screen
start='import runpy, fairseq_dsp; runpy.run_module("fairseq_cli.train", run_name="__main__", alter_sys=True)'
exec "$PYTHON" -c "$start" "$data_bins" --user-dir "$ROOT/fairseq_dsp" --save-dir "$save_dir" \
    --source-lang "$source_lang" --target-lang "$target_lang" ${recipe[*]} "$@"
