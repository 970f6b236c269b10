"""Evaluating models, sweeping over head counts, and reporting: each module is a command or a part of one."""
