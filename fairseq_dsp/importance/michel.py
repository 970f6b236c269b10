"""Expected absolute gradients of the head gates (Michel et al. 2019, "Are Sixteen Heads Really Better than One?").

Give every head h a gate ξ_h that multiplies its output A_h, and let L(x) be the loss of sentence x, the negative log
likelihood of its target. The importance of head h (their equation 2) is

    I_h = E_x |∂L(x) / ∂ξ_h|   at ξ = 1,     and     ∂L(x) / ∂ξ_h = ⟨A_h(x), ∂L(x) / ∂A_h(x)⟩,

the inner product over the tokens of x and the head's width. In evaluation the sentences of a batch do not meet, so one
backward pass through the sum of their losses gives ∂L(x) / ∂A_h(x) for each of them, exactly. Each attention module's
importance is divided by its ℓ2 norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import TYPES, HeadSet, modules_of
from ..model.kinds import UnitModule
from ..model.roberta import CLASSIFICATION_HEAD
from ..model.units import shape_of
from ..subset import Budget, Draw, hard_gates, shrink


@dataclass(frozen=True)
class HeadScores:
    """The importance of every head of a model.

    :param values: numbered by type, layer and index, not negative. *Shape:* (N)
    :param shape: for each attention type, the number of heads of each layer.
    :param sentences: number of sentences over which the expectation was taken.
    """

    values: Tensor
    shape: dict[str, list[int]]
    sentences: int

    def to_json(self) -> dict[str, Any]:
        """Return the scores for each type, layer and head, as plain lists."""
        modules = iter(self.values.split([heads for kind in TYPES for heads in self.shape[kind]]))
        return {"sentences": self.sentences} | {
            kind: [next(modules).tolist() for _ in self.shape[kind]] for kind in TYPES
        }


def score(model: nn.Module, batches: Iterable[dict[str, Any]], *, gates: Tensor | None = None) -> HeadScores:
    """Return the importance of a model's heads, averaged over the sentences of all batches.

    :param model: an encoder–decoder Transformer, or a RoBERTa that classifies; it is put into evaluation mode.
    :param batches: as fairseq's datasets collate them, on the model's device.
    :param gates: ξ, of 0 for a head that is removed already, which scores 0; all 1 by default. *Shape:* (N).
    :raises ValueError: if there is no sentence, or the model is compact or keeps some of its heads only.
    """
    modules = modules_with_all_heads(model)
    sizes = [module.units for module in modules]
    shape = shape_of(modules)
    xi = torch.ones(sum(sizes)) if gates is None else gates.float()
    total = torch.zeros(sum(sizes), dtype=torch.float64)
    sentences = 0
    for batch in batches:
        gradients = gate_gradients(model, batch, xi)
        total += gradients.abs().sum(0)
        sentences += len(gradients)
    if not sentences:
        raise ValueError("there is no sentence to score the heads on: give at least one batch")
    values = total / sentences * (xi != 0)
    normalised = [v / v.norm() if v.norm() else v for v in values.split(sizes)]
    return HeadScores(torch.cat(normalised), shape, sentences)


def modules_with_all_heads(model: Any) -> list[UnitModule]:
    """Return the attention modules of a model that has all its heads.

    :raises ValueError: if it is compact or keeps some of its heads only.
    """
    modules = list(modules_of(model))
    if any(getattr(module.module, "removed", False) for module in modules):
        raise ValueError("the model is compact: one that has all its heads is expected")
    pruner, total = getattr(model, "pruner", None), sum(module.units for module in modules)
    if pruner is not None and (kept := pruner.kept().kept) < total:
        raise ValueError(
            f"the model keeps only {kept} of its {total} heads, so the others cannot be scored or read: give an "
            "unpruned checkpoint"
        )
    return modules


def choose(
    scoring: Callable[[Tensor], HeadScores],
    shape: Mapping[str, Sequence[int]],
    heads_to_keep: int,
    *,
    steps: int = 1,
    floor: int = 0,
) -> tuple[HeadSet, HeadScores]:
    """Return the heads to keep, and the first scores: at once, or greedily, scoring anew after each step.

    :param scoring: scores the model with given gates, *Shape:* (N) or () for all 1; see :func:`score`.
    :param shape: of each attention type the number of heads of each module.
    :param heads_to_keep: K, from 0 to N.
    :param steps: in how many steps of about equal size the N − K lowest heads are removed.
    :param floor: the least number of heads of an attention module.
    :raises ValueError: if so many heads cannot be kept, or *steps* is below 1.
    """
    if steps < 1:
        raise ValueError(f"the number of steps is {steps}, but it must be 1 or more")
    sizes = [heads for kind in TYPES for heads in shape[kind]]
    n = sum(sizes)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    floors = [Draw(tuple(range(end - size, end)), floor) for end, size in zip(ends, sizes, strict=True)]
    Budget.grouped([range(n)], [heads_to_keep], floors)  # raises before the long work
    first = scores = scoring(torch.tensor(1.0))
    gates = torch.ones(n)
    # with few heads to remove, some steps remove none
    totals = sorted({shrink(step, n, heads_to_keep, steps) for step in range(1, steps + 1)} - {n}, reverse=True)
    for total in totals:
        budget = Budget.grouped([range(n)], [total], floors)
        # below all others: a head that was removed stays removed
        gates = hard_gates(torch.where(gates > 0, scores.values, -1.0), budget).float()
        if total > heads_to_keep:
            scores = scoring(gates)
    return HeadSet.from_gates(gates, shape), first


def gate_gradients(model: nn.Module, batch: dict[str, Any], xi: Tensor) -> Tensor:
    """Return ∂L(x) / ∂ξ_h for each sentence x of a batch and each head h, in float64 on the CPU. *Shape:* (B, N).

    :param xi: the gates. *Shape:* (N) or ().
    """
    model.eval()
    with _gated_heads(model, xi) as gates, torch.enable_grad():
        _loss(model, batch).backward()
        # nothing reads the encoder of a model without cross-attention: its heads have no gradient
        gradients = [
            gate.grad if gate.grad is not None else torch.zeros_like(gate) for _, gate in sorted(gates.items())
        ]
        return torch.cat(gradients, dim=1).double().cpu()


def _loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Return the negative log likelihood of a batch's target words or labels, or its squared error; a scalar."""
    target = batch["target"].flatten()
    if not hasattr(model, "decoder"):  # it classifies
        heads = model.classification_heads
        head = CLASSIFICATION_HEAD if CLASSIFICATION_HEAD in heads else next(iter(heads))
        logits, _ = model(**batch["net_input"], features_only=True, classification_head_name=head)
        if target.is_floating_point():  # a regression
            return F.mse_loss(logits.float().flatten(), target, reduction="sum")
        return F.cross_entropy(logits.float(), target, reduction="sum")
    words = target != model.decoder.dictionary.pad()
    features, target = model(**batch["net_input"])[0].flatten(0, 1)[words], target[words]
    if model.decoder.adaptive_softmax is None:  # they are logits
        return F.cross_entropy(features.float(), target, reduction="sum")
    clusters = zip(*model.decoder.adaptive_softmax(features, target), strict=True)
    return sum(
        (F.cross_entropy(logits.float(), own, reduction="sum") for logits, own in clusters if own is not None),
        start=features.new_zeros(()),
    )


@contextmanager
def _gated_heads(model: nn.Module, xi: Tensor) -> Iterator[dict[int, Tensor]]:
    """Multiply the head outputs by ξ while in the block, and by a gate of 1 for each sentence of the last batch.

    Yields these gates of 1 by the number of the attention module, *Shape:* (B, H): backward leaves gradients in them.
    """
    modules = list(modules_of(model))
    sizes = [module.units for module in modules]
    own: dict[int, Tensor] = {}

    def hook(place: int, gate: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        def at_heads(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            heads = inputs[0].unflatten(-1, (len(gate), -1))  # (T, B, C) → (T, B, H, d)
            # one gate for each sentence and head; autograd takes the inner product of output and gradient
            own[place] = torch.ones(heads.shape[1:3], device=heads.device, requires_grad=True)
            return ((heads * (own[place] * gate.to(heads))[..., None]).flatten(-2),)

        return at_heads

    gates = xi.expand(sum(sizes)).split(sizes)
    layers = [module.module.out_proj for module in modules]
    with reading(model, {layer: hook(i, gate) for i, (layer, gate) in enumerate(zip(layers, gates, strict=True))}):
        yield own


@contextmanager
def reading(model: nn.Module, hooks: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Call hooks with what layers read, also the outputs of the heads, while in the block; no weight has a gradient.

    :param hooks: forward pre-hooks of layers of the model.
    """
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in hooks.items()]
    attentions: list[Any] = [module.module for module in modules_of(model)]
    before = [attention.skip_embed_dim_check for attention in attentions]
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        model.requires_grad_(False)
        for attention in attentions:
            attention.skip_embed_dim_check = True  # the path of plain operations, which hands out_proj the head outputs
        yield
    finally:
        for handle in handles:
            handle.remove()
        for attention, value in zip(attentions, before, strict=True):
            attention.skip_embed_dim_check = value
        for parameter in trained:
            parameter.requires_grad_(True)
