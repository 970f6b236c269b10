"""Removing heads for good: checkpoints of compact models, and exports to other tools."""
