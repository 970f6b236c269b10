"""Training with fairseq: the task, the criterion and the optimiser's group for the importance variables."""

from . import averages, criterion, distillation, optimizer, task, training_checks

__all__ = ["averages", "criterion", "distillation", "optimizer", "task", "training_checks"]
