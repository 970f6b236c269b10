"""Translating or classifying with an exported folder, without training code."""
