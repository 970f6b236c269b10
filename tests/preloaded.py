"""What the processes that tests start have imported already, and no plugin; the server that forks them imports this."""

import contextlib
import gc
import io

import matplotlib.figure  # noqa: F401
import sacrebleu  # noqa: F401
import sacremoses  # noqa: F401
import submitit  # noqa: F401
import torch._dynamo  # noqa: F401 — the first optimiser does it, for 2 seconds
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate, hydra_train, interactive, preprocess, train, validate  # noqa: F401

from tests import quick_hydra

quick_hydra.install()
with contextlib.redirect_stderr(io.StringIO()):  # hydra's parser learns its grammar at the first use
    words = ["data", "--arch", "transformer", "--optimizer", "adam", "--lr", "0.005", "--max-tokens", "400"]
    convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
gc.collect()
gc.freeze()  # or each process would look through all this again, and copy it
