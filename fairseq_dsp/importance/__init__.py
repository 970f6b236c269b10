"""Scoring the heads of a trained model, to prune it after training."""

from .michel import HeadScores, choose, score

__all__ = ["HeadScores", "choose", "score"]
