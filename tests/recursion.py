"""The K-subset distribution head by head, in N steps: slow and plain, to check the fast one.

Walking over the heads in order, the chance to choose the next one depends only on how many are still to be chosen. So
sample, marginals and the product with the covariance are recursions over a table of N × K conditional probabilities
(Ahmed et al. 2023, algorithms 1 and 2).
"""

from __future__ import annotations

import math

import numpy as np


def marginals(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that each head is among the *k* chosen. *Shape:* (N)."""
    table = chances(scores, k)
    return (remaining(table) * table).sum(1)


def sample(scores: np.ndarray, k: int, uniform: np.ndarray) -> np.ndarray:
    """Return an exact sample of the *k*-subsets as 0/1, from independent uniform numbers. *Shape:* (N)."""
    table = chances(scores, k)
    gates = np.zeros(len(scores))
    for i in range(len(scores)):
        gates[i] = uniform[i] < table[i, k - int(gates.sum())]
    return gates


def covariance_product(scores: np.ndarray, k: int, vector: np.ndarray) -> np.ndarray:
    """Return Cov(z) v. *Shape:* (N)."""
    table, n = chances(scores, k), len(scores)
    left = remaining(table)
    centred = vector - vector.mean()
    # after[i, c]: E[Σ_{l ≥ i} v_l z_l], given that c heads are still to be chosen from i on
    after = np.zeros((n + 1, k + 1))
    for i in reversed(range(n)):
        after[i] = (1 - table[i]) * after[i + 1] + table[i] * (centred[i] + shifted(after[i + 1]))
    # before[c]: E[Σ_{l < i} v_l z_l, and c heads are still to be chosen from i on]
    before, product = np.zeros(k + 1), np.zeros(n)
    for i in range(n):
        chosen = table[i] * (before + left[i] * centred[i])
        product[i] = chosen.sum() + (table[i] * left[i] * (shifted(after[i + 1]) - after[0, k])).sum()
        before = (1 - table[i]) * before
        before[:-1] += chosen[1:]
    return product


def chances(scores: np.ndarray, k: int) -> np.ndarray:
    """Return P(head i is chosen | c heads are to be chosen from i on). *Shape:* (N, K + 1)."""
    n = len(scores)
    # log of the elementary symmetric polynomial of degree c in exp(θ_i), …, exp(θ_{N−1})
    log_sums = np.full((n + 1, k + 1), -math.inf)
    log_sums[n, 0] = 0.0
    table = np.zeros((n, k + 1))
    for i in reversed(range(n)):
        with_it = scores[i] + shifted(log_sums[i + 1], -math.inf)
        log_sums[i] = np.logaddexp(log_sums[i + 1], with_it)
        possible = log_sums[i] > -math.inf
        table[i, possible] = np.exp(with_it[possible] - log_sums[i, possible])
    return table


def remaining(table: np.ndarray) -> np.ndarray:
    """Return P(c heads are still to be chosen from i on). *Shape:* (N, K + 1)."""
    left = np.zeros_like(table)
    left[0, -1] = 1.0
    for i in range(len(table) - 1):
        left[i + 1] = left[i] * (1 - table[i])
        left[i + 1, :-1] += (left[i] * table[i])[1:]
    return left


def shifted(row: np.ndarray, first: float = 0.0) -> np.ndarray:
    """Return the row with entry c at c + 1."""
    return np.concatenate([[first], row[:-1]])
