"""Scoring models: BLEU and chrF on a test set, significance, speed and memory."""
