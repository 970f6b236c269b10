"""Encoders as others publish them, as checkpoints to start from."""
