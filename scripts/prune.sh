#!/usr/bin/env bash
# Prunes a trained model: chooses K of its heads while it trains on, makes it compact and compares it with the original;
# a thin wrapper of `fairseq-dsp prune`, where all the work and all the help is.
#   scripts/prune.sh CHECKPOINT DATA OUT --heads-to-keep K [K …] [options of fairseq-train]
#   scripts/prune.sh --help
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "$0")")/common.sh"
run_command prune "$@"
