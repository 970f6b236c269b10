"""The distribution of K-subsets, exactly (Ahmed et al. 2023, "SIMPLE: A Gradient Estimator for k-Subset Sampling").

N independent choices z with the log-odds θ, conditioned on their number:

    p(z) = exp(Σ_h θ_h z_h) / Z   over all z in {0, 1}^N with Σ_h z_h = K,

where Z is the elementary symmetric polynomial of degree K in exp(θ). The mean is μ = E[z], and its gradient is Cov(z).

They compute it head by head, in N steps (algorithms 1 and 2). Here it is a tree of about log N levels, each of them a
handful of operations on all its nodes at once: blocks of up to :data:`_BLOCK` heads, of which all subsets are listed,
then pairs of nodes, whose polynomials' product is a convolution of coefficients. Every node has, for each count c of
chosen heads below it, the chances of each way to split c among what lies below; with these, samples, marginals and
products with Cov(z) go down the tree in plain sums of products. Only the chances themselves need the log space. All is
in float64 where the scores are, in O(N · K) time and memory; shapes depend on N and K alone, and nothing waits for a
GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from .device import beside, constant, uniform

_BLOCK = 6
"""The most heads of which all subsets are listed: 2^6 of them."""

_NEVER = -1e200
"""The score of what is never chosen: finite, so that no difference of two is a NaN, and below all others."""

_OUTSIDE = -1e300
"""The log of the chance of a count that a node cannot have: below any sum of the scores."""


class KSubset:
    """Subsets of *k* of N heads, drawn in proportion to exp(Σ_h θ_h z_h); one distribution, or D of them at once.

    :param scores: θ: finite, or −∞ for a head that is never chosen. *Shape:* (N) or (D, N), N > 0.
    :param k: how many heads are chosen, at most as many as have a finite score; a number for each of the D
        distributions, or one for all.
    :raises ValueError: if *k* is not within 0 … N.
    """

    def __init__(self, scores: Tensor, k: int | Sequence[int]) -> None:
        self.shape = scores.shape
        rows = scores.reshape(-1, scores.shape[-1]).double().nan_to_num(_NEVER).clamp(_NEVER, -1e-50 * _NEVER)
        self._rows, self._heads = rows.shape
        counts = (k,) * self._rows if isinstance(k, int) else tuple(k)
        for count in counts:
            if not 0 <= count <= self._heads:
                raise ValueError(f"k is {count}, but of {self._heads} heads 0 to {self._heads} can be chosen")
        self._count = constant(counts, rows.device)
        self._most = max(1, *counts)
        # From the K-th largest score up every head is chosen with a chance of ½ or more, before there is a condition on
        # their number, and every other with ½ or less: so the likeliest subset's log, at least −N · log 2, is computed
        # without a loss, however large the scores.
        order = rows.detach().sort(dim=1, descending=True).values
        self._odds = rows - order.gather(1, constant(tuple((max(count, 1) - 1,) for count in counts), rows.device))
        self._build(self._odds.detach())

    # --- what the distribution tells --------------------------------------------------------------------------------

    @property
    def marginals(self) -> Tensor:
        """μ, the chance of each head to be chosen, differentiable once. *Shape:* that of θ."""
        marginals: Tensor = _Marginals.apply(self._odds, self)
        return marginals.reshape(self.shape)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return an exact sample as 0/1, without gradient. *Shape:* that of θ.

        :param generator: where noise is drawn from, on the CPU; torch's own when None.
        """
        return self.sample_with(uniform((self.noise_of(self.shape),), generator, self._odds.device))

    @staticmethod
    def noise_of(shape: Sequence[int]) -> int:
        """Return how many uniform numbers a sample takes, for scores of a shape."""
        return math.prod(shape[:-1]) * 2 * _nodes(shape[-1])

    def sample_with(self, noise: Tensor) -> Tensor:
        """Return the sample that uniform numbers from [0, 1) give, as many as :meth:`noise_of` says."""
        noise = noise.reshape(self._rows, 2 * self._nodes)
        count = self._count
        for splits in reversed(self._splits[1:]):  # node i of a level has its noise at i, counted from the root's 1
            left = _draw(splits[..., :-1], count, noise)
            count = torch.stack([left, count - left], 1).flatten()
        # the columns after that of a subset are as many as the number of its complement
        gates = 1 - _subsets(self._block, count.device)[0][_draw(self._splits[0], count, noise)]
        return self._heads_of(gates)

    def covariance_product(self, vector: Tensor) -> Tensor:
        """Return Cov(z) v, the gradient of v · μ with respect to θ, without gradient. *Shape:* that of θ.

        :param vector: v. *Shape:* that of θ.
        """
        rows = vector.detach().double().reshape(self._rows, self._heads)
        rows = rows - rows.mean(1, keepdim=True)  # a constant adds K times itself to v · z: only rounding
        subsets = _subsets(self._block, rows.device)[0]
        # of a node: E[v · z below it, and the split | c chosen below it], and the sum over the splits
        joint = [self._splits[0] * (self._blocks_of(rows, 0.0) @ subsets.T)[:, None]]
        means = [joint[0].sum(-1)]
        for splits in self._splits[1:]:
            joint.append(_pairs(means[-1], splits.shape[1], 0.0).mul_(splits))
            means.append(joint[-1].sum(-1))
        # of a node and a count c below it: P(c), and E[v · z − E[v · z], and c]
        root = self._root()
        both = torch.stack([root, torch.zeros_like(root)], 1)
        for i in reversed(range(len(means))):
            chances, excess = both[:, :1], both[:, 1:]
            excess.addcmul_(chances, means[i][:, None], value=-1)  # of what is not below the node
            if i == 0:
                break
            sides = []
            for splits, means_of in zip(_sides(self._splits[i]), _sides(joint[i]), strict=True):
                sides.append(both @ splits)
                sides[-1][:, 1:].baddbmm_(chances, means_of)
            both = _children(*sides)
        product = (excess @ self._splits[0]).baddbmm_(chances, joint[0])[:, 0] @ subsets
        return self._heads_of(product)

    # --- the tree ---------------------------------------------------------------------------------------------------

    def _build(self, odds: Tensor) -> None:
        """Compute the chances of the splits, from the blocks to the root."""
        self._nodes = _nodes(self._heads)
        self._block = -(-self._heads // self._nodes)
        subsets, by_count = _subsets(self._block, odds.device)
        blocks = self._blocks_of(odds, _NEVER)
        logs = logsigmoid(blocks) @ subsets.T + logsigmoid(-blocks) @ (1 - subsets).T
        terms = logs[:, None] + by_count[: self._most + 1]
        self._splits, size = list[Tensor](), self._block
        while True:
            self._splits.append(terms.softmax(-1))  # of each level, the blocks first. *Shape:* (nodes, counts, splits)
            # log Σ exp(terms)
            logs = terms.amax(-1) - self._splits[-1].amax(-1).log()
            if len(logs) == self._rows:
                return
            size *= 2
            terms = _pairs(logs, min(size, self._most) + 1, _OUTSIDE)

    def _blocks_of(self, rows: Tensor, fill: float) -> Tensor:
        """Return what belongs to the heads block by block. *Shape:* (D · nodes, block)."""
        missing = self._nodes * self._block - self._heads
        filled = torch.cat([rows, rows.new_full((1, 1), fill).expand(len(rows), missing)], 1) if missing else rows
        return filled.reshape(-1, self._block)

    def _heads_of(self, blocks: Tensor) -> Tensor:
        return blocks.reshape(self._rows, -1)[:, : self._heads].reshape(self.shape)

    def _root(self) -> Tensor:
        """Return 1 at the count K of the root. *Shape:* (D, counts)."""
        root = self._odds.new_zeros(self._rows, self._splits[-1].shape[1])
        return root.scatter_(1, self._count[:, None], 1.0)

    def _means(self) -> Tensor:
        """Return the marginals. *Shape:* (D, N)."""
        chances = self._root()  # of the counts of every node of a level. *Shape:* (nodes, counts)
        for splits in reversed(self._splits[1:]):
            chances = _children(*(chances[:, None] @ side for side in _sides(splits)))[:, 0]
        chances = (chances[:, None] @ self._splits[0])[:, 0]
        return self._heads_of(chances @ _subsets(self._block, chances.device)[0]).reshape(self._odds.shape)


class _Marginals(torch.autograd.Function):
    """The marginals; their Jacobian is the covariance."""

    @staticmethod
    def forward(ctx: Any, odds: Tensor, subset: KSubset) -> Tensor:
        ctx.subset = subset
        return subset._means()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.subset.covariance_product(grad.reshape(ctx.subset.shape)).reshape(grad.shape), None


@cache  # for good, as `constant`
def _subsets(heads: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all subsets as 0/1, and for each count 0 where a subset has it and else :data:`_OUTSIDE`.

    *Shape:* (2^heads, heads) and (heads + 1, 2^heads).
    """
    with torch.inference_mode(False):
        subsets = (torch.arange(2**heads)[:, None] >> torch.arange(heads)) & 1
        by_count = (subsets.sum(1) != torch.arange(heads + 1)[:, None]).double() * _OUTSIDE
        return beside(subsets.double(), device), beside(by_count, device)


def _nodes(heads: int) -> int:
    """Return the number of blocks: a power of two."""
    return 1 << (-(-heads // _BLOCK) - 1).bit_length()


def _pairs(values: Tensor, counts: int, outside: float) -> Tensor:
    """Return for two nodes side by side, and each count c of both, the sums of their values for each split of c.

    :param values: by count 0 … w − 1. *Shape:* (nodes, w).
    :param counts: how many counts the two may have together.
    :param outside: the value of a count that a node does not have.
    :return: in column s of row c, left[w − 1 − s] + right[c − (w − 1 − s)]; one column more, in which both are
        outside, keeps the rows apart for :func:`_sides`. *Shape:* (nodes / 2, counts, w + 1), contiguous.
    """
    nodes, width = values.shape
    fill = values.new_full((1, 1), outside)
    filled = torch.cat([fill.expand(nodes, width), values, fill.expand(nodes, counts - width + 1)], 1)
    left = filled[0::2, width - 1 : 2 * width].flip(1)
    right = filled[1::2, 1:].unfold(1, width + 1, 1)
    return torch.add(left[:, None], right, out=values.new_empty(nodes // 2, counts, width + 1))


def _sides(splits: Tensor) -> tuple[Tensor, Tensor]:
    """Return views of what is given for the splits: by the left node's count, from w − 1 to 0; by the right one's.

    :param splits: what :func:`_pairs` returns, with 0 wherever a count is outside. *Shape:* (nodes, counts, w + 1).
    :return: twice (nodes, counts, w).
    """
    nodes, counts, columns = splits.shape
    # the right node's count in column s of row c is c − w + 1 + s: a row further, it is one column to the left
    right = splits.as_strided((nodes, counts, columns - 1), (counts * columns, columns - 1, 1), columns - 2)
    return splits[..., :-1], right


def _children(left: Tensor, right: Tensor) -> Tensor:
    """Return the values of the nodes of the next level from those of :func:`_sides`. *Shape:* (2 · nodes, …, w)."""
    return torch.stack([left.flip(-1), right], 1).flatten(0, 1)


def _draw(splits: Tensor, count: Tensor, noise: Tensor) -> Tensor:
    """Draw a split for each node's count; return how many columns come after its own. *Shape:* (nodes)."""
    nodes, _, columns = splits.shape
    level = nodes // len(noise)
    chances = splits.gather(1, count[:, None, None].expand(nodes, 1, columns))[:, 0].cumsum(1)
    # in proportion to their sum, which may differ from 1 in the last bit: so no split of chance 0 is drawn
    threshold = noise[:, level : 2 * level].reshape(nodes, 1) * chances[:, -1:]
    return (chances[:, :-1] > threshold).sum(1)
