# Shared by the scripts beside it: `source "$(dirname "$(readlink -f "$0")")/common.sh"`. Stops at the first error, knows
# the root of the repository, and finds a Python with this package in it:
#
#   find_python    sets PYTHON: the caller's $PYTHON if set, else that of an active environment (venv or conda) with this
#                  package, else that of the repository's own .venv, made when it is not there, or without this package
#   run_command …  runs a command of fairseq-dsp with that Python, instead of the script
#   one_thread     OMP_NUM_THREADS, if not set, becomes 1: for scripts that start a process a core. The others leave it
#                  to PyTorch, which takes the cores it may use, or to `fairseq-dsp prune`, which divides them
#   say TEXT…      a line for the user, on standard error
#   die TEXT…      the same, then exit status 1
#   show_help      prints the comment at the top of the script, its --help
#   help_if_asked  the same and the end, if the first of its arguments is -h or --help

set -euo pipefail

ROOT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# glibc gives large blocks back to the system and asks for them again at every operation: on the CPU a training update
# takes 1.4 times as long for it (docs/results/history.md).
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-100000000000}

# Threads that wait for others soon sleep. Where they spin for as long as GNU's OpenMP has it, and other work has one of the
# cores, an update takes five times as long (docs/results/training-speed.md).
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

# Python finds this package before another that is installed, and none in the folder where a script is called, such as
# another checkout's: that folder is an empty entry of the path, too.
path=:${PYTHONPATH:-}:
while [[ $path == *::* ]]; do path=${path//::/:}; done
export PYTHONPATH=$ROOT${path%:} PYTHONSAFEPATH=1

one_thread() { export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; }

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

[[ $ROOT != *:* ]] || die "the path $ROOT has a colon, which no list of paths can hold: move the repository"

show_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"; }

help_if_asked() {
  case ${1:-} in
    -h | --help)
      show_help
      exit
      ;;
  esac
}

# A Python 3.11 or 3.12 of the machine, whatever it is called there.
find_system_python() {
  local name
  for name in python3 python python3.12 python3.11; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null
    then
      command -v "$name"
      return
    fi
  done
  die "no Python 3.11 or 3.12 with the venv module found (tried python3, python, python3.12, python3.11): install one," \
    "for example with 'apt install python3.11-venv', or set PYTHON to one in which this package is installed"
}

# Makes $ROOT/.venv and installs the package and its development tools into it, editable, unless that has been done with
# the very setup.py, pyproject.toml and constraints.txt of now. A torch that the user had put there stays: .installed
# names it in its second line.
ensure_venv() {
  local venv=$ROOT/.venv stamp wanted base torch=""
  stamp=$venv/.installed
  wanted=$(cd "$ROOT" && cat setup.py pyproject.toml constraints.txt | cksum)
  if [[ -x $venv/bin/python && -f $stamp && $(head -n 1 "$stamp") == "$wanted" ]]; then return; fi
  if [[ -f $stamp ]]; then
    torch=$(sed -n 2p "$stamp")
  else # also after an attempt that was interrupted
    [[ -z $1 ]] || say "the active environment $1 is not used: fairseq-dsp is not installed in it"
    torch=$(torch_of "$venv/bin/python")
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then # none, or half made
    if [[ -e $venv/bin/python || -L $venv/bin/python ]] && ! "$venv/bin/python" -c "" 2>/dev/null; then
      die "$venv/bin/python does not run here: make its Python available (is there a module to load?), remove $venv to" \
        "have it made anew, or set PYTHON to another Python in which this package is installed"
    fi
    base=$(find_system_python)
    say "making a virtual environment in $venv with $base"
    "$base" -m venv "$venv"
  fi
  say "installing fairseq-dsp and what it needs into $venv (about 2 GB, a minute or so; more with a CUDA build of torch) ..."
  "$venv/bin/python" -m pip install --disable-pip-version-check --editable "$ROOT[dev]" \
    --constraint <(constraints "$torch") >&2 || die "installing failed; the lines above say why"
  printf '%s\n' "$wanted" ${torch:+"$torch"} >"$stamp"
}

# torch==VERSION of an environment, if torch is installed in it and is not the one of constraints.txt.
torch_of() {
  local torch
  torch=$("$1" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' 2>/dev/null) || return 0
  grep -qxF "${torch%%+*}" "$ROOT/constraints.txt" || printf '%s\n' "$torch"
}

# constraints.txt, with the torch that is given instead of its own.
constraints() {
  if [[ -z $1 ]]; then cat "$ROOT/constraints.txt"; else
    sed "s/^torch==.*/$1/" "$ROOT/constraints.txt"
  fi
}

find_python() {
  local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} own
  if [[ -n ${PYTHON:-} ]]; then
    [[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON # scripts change the folder
    "$PYTHON" -c 'import fairseq, torch' 2>/dev/null ||
      die "PYTHON is set to '$PYTHON', which cannot import fairseq and torch: unset it, or install this package there"
  else
    for own in "$active" "$ROOT/.venv"; do # of the user's own making
      if [[ -f $own/.installed && $own -ef $ROOT/.venv ]]; then continue; fi # ensure_venv's
      if [[ -n $own && -x $own/bin/fairseq-dsp && -x $own/bin/python ]]; then
        PYTHON=$own/bin/python
        break
      fi
    done
    if [[ -z ${PYTHON:-} ]]; then
      ensure_venv "$active"
      PYTHON=$ROOT/.venv/bin/python
    fi
  fi
  export PYTHON
  PATH=$(dirname "$(command -v "$PYTHON")"):$PATH # fairseq-train and the others beside it
}

run_command() {
  find_python
  exec "$PYTHON" -m fairseq_dsp.cli "$@"
}
