"""Training with fairseq: the task, the criterion and the optimiser's group for the importance variables."""

from . import criterion, distillation, optimizer, task, unfinished

__all__ = ["criterion", "distillation", "optimizer", "task", "unfinished"]
