"""What today's fairseq and torch need between them: one file a problem, named after it."""

from __future__ import annotations

import functools

from fairseq_dsp.compat import (
    atomic_checkpoints,
    bf16_means_tpu,
    last_sentences_dropped,
    long_sentences_stop_validation,
    resume_regroups_sentences,
    safe_loading,
    torchrun_splits_training,
    tracebacks_for_users,
    user_dir_imported_twice,
)

__all__ = ["apply_all"]


@functools.cache
def apply_all() -> None:
    """Mend this process's fairseq. Called once, when the plugin is imported; further calls do nothing."""
    tracebacks_for_users.apply()
    user_dir_imported_twice.apply()
    safe_loading.apply()
    atomic_checkpoints.apply()
    resume_regroups_sentences.apply()
    torchrun_splits_training.apply()
    bf16_means_tpu.apply()
    last_sentences_dropped.apply()
    long_sentences_stop_validation.apply()
