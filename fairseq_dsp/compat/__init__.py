"""What today's fairseq and torch need between them: one file a problem, named after it."""

from __future__ import annotations

import functools

__all__ = ["apply_all"]


@functools.cache
def apply_all() -> None:
    """Fix this process's fairseq. Called once, when the plugin is loaded; further calls do nothing."""
    from fairseq_dsp.compat import (
        amp_unscales_twice,
        archives_write_outside,
        atomic_checkpoints,
        bf16_means_tpu,
        ema_needs_its_own_checkpoint,
        fasta_paths_run_in_a_shell,
        help_leaves_options_out,
        last_sentences_dropped,
        legacy_ddp_mixes_types,
        long_sentences_stop_validation,
        options_are_evaluated,
        other_processes_refuse_checkpoints,
        resume_forgets_counts,
        resume_regroups_sentences,
        safe_loading,
        shards_are_read_unseen,
        torchrun_splits_training,
        tracebacks_for_users,
        user_dir_imported_twice,
    )

    tracebacks_for_users.apply()
    user_dir_imported_twice.apply()
    safe_loading.apply()
    options_are_evaluated.apply()
    help_leaves_options_out.apply()
    fasta_paths_run_in_a_shell.apply()
    archives_write_outside.apply()
    atomic_checkpoints.apply()
    other_processes_refuse_checkpoints.apply()
    legacy_ddp_mixes_types.apply()
    amp_unscales_twice.apply()
    ema_needs_its_own_checkpoint.apply()
    resume_forgets_counts.apply()
    resume_regroups_sentences.apply()
    torchrun_splits_training.apply()
    bf16_means_tpu.apply()
    last_sentences_dropped.apply()
    long_sentences_stop_validation.apply()
    shards_are_read_unseen.apply()
