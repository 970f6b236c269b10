"""What today's fairseq and torch need between them: one file a problem, named after it."""

from __future__ import annotations

import functools
from importlib import import_module

__all__ = ["apply_all"]

_FIXES = (
    "tracebacks_for_users",
    "diverged_trainings_show_tracebacks",
    "user_dir_imported_twice",
    "safe_loading",
    "options_are_evaluated",
    "help_leaves_options_out",
    "fasta_paths_run_in_a_shell",
    "archives_write_outside",
    "atomic_checkpoints",
    "other_processes_refuse_checkpoints",
    "legacy_ddp_mixes_types",
    "amp_unscales_twice",
    "ema_needs_its_own_checkpoint",
    "average_loses_layer_norms",
    "resume_forgets_counts",
    "resume_regroups_sentences",
    "torchrun_splits_training",
    "bf16_means_tpu",
    "fp16_on_a_cpu_trains_nothing",
    "last_sentences_dropped",
    "long_sentences_stop_validation",
    "shards_are_read_unseen",
)
"""The files of this folder in the order in which they are applied; `unasked_messages` comes before fairseq."""


@functools.cache
def apply_all() -> None:
    """Fix this process's fairseq. Called once, when the plugin is loaded; further calls do nothing."""
    # all are imported before the first is applied: one is about the modules of fairseq that are imported by then
    for fix in [import_module(f"{__name__}.{name}") for name in _FIXES]:
        fix.apply()
