"""Translating from an exported folder, without training code."""
