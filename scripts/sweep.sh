#!/usr/bin/env bash
# Runs a study: every model of a table or a curve, trained, pruned, translated with and scored; a thin wrapper of
# `fairseq-dsp sweep`, where all the work and all the help is.
#   scripts/sweep.sh scripts/studies/quickstart.yaml
#   scripts/sweep.sh --help
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "$0")")/common.sh"
one_thread
run_command sweep "$@"
