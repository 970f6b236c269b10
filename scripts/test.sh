#!/usr/bin/env bash
# Set up everything and pass the tests: ruff, mypy, pytest.
#
#   ./scripts/test.sh [PYTEST-OPTIONS]      e.g. ./scripts/test.sh tests/subset -k relaxed
#   ./scripts/test.sh --all                 what continuous integration runs: the tests marked slow, too
#
# Makes the virtual environment .venv on the first run, about a minute; then 5 to 7 minutes on 2 cores, 10 to 16 with --all.
# An active environment is not used, since it may lack the development tools: set PYTHON to use another one. WORKERS
# processes share the tests, one a core by default. Tests on the shared corpora read them from $FAIRSEQ_DSP_CORPORA or
# ../shared/data, and are skipped where there are none; so are tests that need a GPU.
# Proofs that take longer: tests/long/.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "$(readlink -f "$0")")/common.sh"

help_if_asked "$@"

one_thread
if [[ -z ${PYTHON:-} ]]; then
  ensure_venv ""
  PYTHON=$ROOT/.venv/bin/python
fi
find_python
cd "$ROOT"
say "ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "mypy"
"$PYTHON" -m mypy
say "pytest"
exec env -u PYTHONSAFEPATH "$PYTHON" -m pytest --numprocesses "${WORKERS:-auto}" --dist loadfile --no-loadscope-reorder "$@"
