#!/usr/bin/env bash
# scripts/preprocess.sh CORPUS OUT [options]: from raw text to OUT/data-bin, which fairseq-train reads.
#
#   scripts/preprocess.sh phrases data/phrases                         generated on the spot; needs no network
#   scripts/preprocess.sh multi30k data/multi30k [--raw-dir DIR]       downloaded, or from a folder
#   scripts/preprocess.sh iwslt14 data/iwslt14 [--raw-dir DIR]         downloaded, or from a folder
#   scripts/preprocess.sh custom mine.de mine.en data/mine             your own parallel text
#   scripts/preprocess.sh nli data/sick --raw-dir DIR --encoder DIR    sentence pairs of SICK, SNLI or MNLI
#   scripts/preprocess.sh distilled CKPT DATA data/distilled           DATA with the translations of a model beside it
#
#   scripts/preprocess.sh CORPUS --help                                all options of a corpus
#
# Run again after an interruption, it goes on from the last finished stage; when all is done, it does nothing.
# data-prep/README.md tells what OUT holds then, and where the corpora come from.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"
one_thread

case ${1:-} in
  -h | --help) show_help; exit ;;
  '') show_help >&2; die "no CORPUS given: expected phrases, multi30k, iwslt14, custom, nli or distilled" ;;
esac
for word in "$@"; do
  # help needs no package, and so no environment
  if [[ $word == -h || $word == --help ]]; then
    python=$(find_system_python)
    exec "$python" -m fairseq_dsp.cli prepare "$@"
  fi
done
run_command prepare "$@"
