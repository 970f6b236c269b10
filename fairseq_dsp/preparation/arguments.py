"""Types of values on the command line."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """An integer above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def ratio(text: str) -> float:
    """A number from one, for argparse."""
    number = float(text)
    if not 1 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return number


def share(text: str) -> float:
    """A number above zero and at most one, for argparse."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return number
