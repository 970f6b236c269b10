"""Attention with any number of heads in each module: what is left of a model once the other heads are gone."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules import FairseqDropout, MultiheadAttention
from torch import Tensor, nn

from .heads import TYPES, HeadSet, attention_modules

IncrementalState = dict[str, dict[str, Any]]

_KINDS = ("weight", "bias")


class CompactAttention(nn.Module):
    """Multi-head attention of H heads of width d_h, where H · d_h need not be the model's width and H may be 0.

    Projections of the same input are one matrix, but the state dict has the stock names ``q_proj``, ``k_proj``,
    ``v_proj`` and ``out_proj``, so that checkpoints can be averaged and exported like any other. With no heads, only
    the output bias is left.

    Keys and values of the encoder are kept once a sentence, not once a beam: the queries' batch may be a multiple of
    the keys', the rows of each sentence side by side.

    :param width: width C of the queries and of the result.
    :param key_width: width C' of what is attended to.
    :param heads: number of heads H.
    :param head_dim: width d_h of a head.
    :param cross: whether keys and values come from the encoder.
    :param dropout: applied to the attention probabilities.
    """

    def __init__(
        self, width: int, key_width: int, heads: int, head_dim: int, *, cross: bool, dropout: FairseqDropout
    ) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.num_heads, self.head_dim = width, key_width, heads, head_dim
        self.cross = cross
        self._key = str(uuid.uuid4())  # of what this module saves for decoding
        self.dropout_module = dropout
        self.gives_weights = True
        inner = heads * head_dim
        self.out_proj = nn.Linear(inner, width) if heads else OnlyBias(width)
        if heads and cross:
            self.q_proj = nn.Linear(width, inner)
            self.kv_proj = JoinedProjections(key_width, inner, ("k_proj", "v_proj"))
        elif heads:
            self.qkv_proj = JoinedProjections(width, inner, ("q_proj", "k_proj", "v_proj"))

    @staticmethod
    def of(attention: Any, kept: Sequence[int]) -> CompactAttention:
        """Return the attention of the *kept* heads of a stock attention module, with its weights, type and device.

        :raises ValueError: if the module does what this class does not.
        """
        if not can_be_compact(attention):
            raise ValueError(f"{type(attention).__name__} with these options cannot be made compact")
        like = attention.out_proj.bias
        small = CompactAttention(
            attention.embed_dim,
            attention.kdim,
            len(kept),
            attention.head_dim,
            cross=attention.encoder_decoder_attention,
            dropout=attention.dropout_module,
        ).to(like.device, like.dtype)
        small.load_state_dict(keep_heads(attention.state_dict(), kept, attention.head_dim))
        return small.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        incremental_state: IncrementalState | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend. The arguments are the stock attention's; *value* is taken to be *key*.

        :param query: *Shape:* (T, B, C).
        :param key: *Shape:* (S, B', C'), B a multiple of B'; with *static_kv*, read at the first step of decoding only.
        :param key_padding_mask: true where there is padding. *Shape:* (B', S).
        :param attn_mask: added to the scores. *Shape:* (T, S).
        :return: the result, *Shape:* (T, B, C), and, if asked for, the probabilities: the mean over the heads,
            *Shape:* (B, T, S), or, with *need_head_weights*, each head's, *Shape:* (H, B, T, S).
        """
        if self.num_heads == 0:
            return self.out_proj(query), None
        if self.cross:
            q = self.q_proj(query)
            k, v, mask = self._encoder_keys(key, key_padding_mask, q.shape[1], incremental_state if static_kv else None)
        else:
            inner = self.num_heads * self.head_dim
            q, kv = self.qkv_proj(query).split((inner, 2 * inner), -1)
            k, v, mask = self._own_keys(kv, key_padding_mask, incremental_state)
        if attn_mask is not None:
            mask = attn_mask.to(q) if mask is None else mask + attn_mask.to(q)
        steps, rows, _ = q.shape
        sentences = k.shape[0]
        # the rows of one sentence query the same keys: (T, B' · R, H · d) → (B', H, R · T, d)
        q = q.reshape(steps, sentences, rows // sentences, self.num_heads, self.head_dim)
        q = q.permute(1, 3, 2, 0, 4).flatten(2, 3)
        drop = self.dropout_module
        dropout = drop.p if self.training or drop.apply_during_inference else 0.0
        weights: Tensor | None = None
        if self.gives_weights and (need_weights or need_head_weights):
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            probabilities = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32)
            x = F.dropout(probabilities.to(q), dropout) @ v
            weights = probabilities.unflatten(2, (-1, steps)).permute(1, 0, 2, 3, 4).flatten(1, 2)
            weights = weights if need_head_weights else weights.mean(0)
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        x = x.unflatten(2, (-1, steps)).permute(3, 0, 2, 1, 4).reshape(steps, rows, -1)
        return self.out_proj(x), weights

    def _encoder_keys(
        self, key: Tensor | None, padding: Tensor | None, rows: int, incremental_state: IncrementalState | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values, *Shape:* (B', H, S, d), and the mask, computed at the first step of decoding only."""
        saved = self._get_input_buffer(incremental_state)
        if not saved:
            assert key is not None
            kv = self.kv_proj(key).view(*key.shape[:2], 2, self.num_heads, self.head_dim).permute(2, 1, 3, 0, 4)
            if incremental_state is not None:
                kv = kv.contiguous()  # it will be read at every step
                padding = padding if padding is not None and padding.any() else None
            mask = None if padding is None else additive(padding, kv)
            saved = {"kv": kv, "mask": mask, "beams": rows // kv.shape[1]}
            if incremental_state is not None:
                incremental_state[self._key] = saved
        k, v = saved["kv"]
        return k, v, saved["mask"]

    def _own_keys(
        self, kv: Tensor, padding: Tensor | None, incremental_state: IncrementalState | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values, *Shape:* (B, H, S, d), and the mask, of this step and all earlier ones of decoding.

        :param kv: this step's keys and values. *Shape:* (T, B, 2 · H · d).
        """
        if incremental_state is not None:
            saved = self._get_input_buffer(incremental_state)
            if saved:
                kv, padding = _append(saved, kv, padding)
            incremental_state[self._key] = {"kv": kv, "padding": padding, "order": None}
        k, v = kv.view(*kv.shape[:2], 2, self.num_heads, self.head_dim).permute(2, 1, 3, 0, 4)
        return k, v, None if padding is None else additive(padding, k)

    def reorder_incremental_state(self, incremental_state: IncrementalState | None, new_order: Tensor) -> None:
        """Make the state saved for decoding the one of the rows *new_order*. *Shape:* (B)"""
        saved = self._get_input_buffer(incremental_state)
        if not saved:
            return
        if not self.cross:
            # done in the copy that appends the next step; two orders with no step between them are one
            saved["order"] = new_order if saved["order"] is None else saved["order"].index_select(0, new_order)
            return
        self.keep_sentences(incremental_state, *group_rows(new_order, saved["beams"], saved["kv"].shape[1]))

    def keep_sentences(self, incremental_state: IncrementalState | None, sentences: Tensor | None, beams: int) -> None:
        """Keep the encoder's keys and values of *sentences* only, each with *beams* rows; see `group_rows`."""
        saved = self._get_input_buffer(incremental_state)
        if not saved:
            return
        saved["beams"] = beams
        if sentences is not None:
            saved["kv"] = saved["kv"].index_select(1, sentences)
            if saved["mask"] is not None:
                saved["mask"] = saved["mask"].index_select(0, sentences)

    def _get_input_buffer(self, incremental_state: IncrementalState | None) -> dict[str, Any]:
        """Return the saved state, for which the stock decoder layer asks at every step."""
        return {} if incremental_state is None else incremental_state.get(self._key, {})

    def make_generation_fast_(self, need_attn: bool = False, **kwargs: Any) -> None:
        """Give probabilities no more unless *need_attn*; fairseq calls this before it generates."""
        self.gives_weights = need_attn

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, module in self.named_children():
            if isinstance(module, JoinedProjections):
                for kind in _KINDS:
                    keys = [f"{prefix}{part}.{kind}" for part in module.names]
                    if all(key in state_dict for key in keys):
                        state_dict[f"{prefix}{name}.{kind}"] = torch.cat([state_dict.pop(key) for key in keys])
        super()._load_from_state_dict(state_dict, prefix, *args)


class JoinedProjections(nn.Linear):
    """Projections of one input as one matrix; the state dict holds them apart, as siblings, under their own names."""

    def __init__(self, in_features: int, out_features: int, names: Sequence[str]) -> None:
        super().__init__(in_features, out_features * len(names))
        self.names = tuple(names)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        outer = prefix[: prefix.rstrip(".").rfind(".") + 1]
        for kind, joined in zip(_KINDS, (self.weight, self.bias), strict=True):
            parts = (joined if keep_vars else joined.detach()).chunk(len(self.names))
            destination.update({f"{outer}{name}.{kind}": part for name, part in zip(self.names, parts, strict=True)})


class OnlyBias(nn.Module):
    """The output projection of an attention module without heads: what is left of it is its bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, query: Tensor) -> Tensor:
        """Return the bias for each row. *Shape:* (…, C) → (…, C)"""
        return self.bias.expand_as(query)


def can_be_compact(attention: nn.Module) -> bool:
    """Whether `CompactAttention` computes all that a stock attention module with its options computes."""
    return (
        isinstance(attention, MultiheadAttention)
        and (attention.self_attention or attention.encoder_decoder_attention)
        and not (attention.use_xformers or attention.add_zero_attn or attention.bias_k is not None)
    )


def make_compact(model: Any, kept: HeadSet) -> None:
    """Replace each attention module of a model by one of the kept heads only, in place.

    :param model: an encoder–decoder Transformer of fairseq.
    :raises ValueError: if an attention module cannot be made compact, or the heads are not the model's.
    """
    modules = list(attention_modules(model))
    kept.to_gates({kind: [m.heads for m in modules if m.type == kind] for kind in TYPES})  # raises if they do not fit
    layers = iter([layer for kind in TYPES for layer in kept.of(kind)])
    for module in modules:
        parent, _, name = module.name.rpartition(".")
        setattr(model.get_submodule(parent), name, CompactAttention.of(module.attention, next(layers)))


def lay_out_for_decoding(model: nn.Module) -> None:
    """Store the matrices of a model's linear layers column by column: the same numbers, shapes and names.

    Decoding multiplies a few rows by a large matrix at every step, which alone takes a CPU half the time in this layout
    (512 × 1024, 5 rows: 0.10 instead of 0.19 ms). A projection that is tied to an embedding is no longer: the embedding
    is read row by row.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight
            module.weight = nn.Parameter(weight.detach().t().contiguous().t(), requires_grad=weight.requires_grad)


def keep_heads(parameters: Mapping[str, Tensor], kept: Sequence[int], head_dim: int) -> dict[str, Tensor]:
    """Return an attention module's state dict without the other heads' parameters and without any importance.

    :param parameters: state dict of the stock module, gated or not.
    :param kept: the heads to keep.
    :param head_dim: width d_h of a head.
    """
    bias, weight = parameters["out_proj.bias"], parameters["out_proj.weight"]
    if not kept:
        return {"out_proj.bias": bias}
    rows = _rows(kept, head_dim).to(weight.device)
    parts = {f"{part}_proj.{kind}": parameters[f"{part}_proj.{kind}"][rows] for part in "qkv" for kind in _KINDS}
    return {**parts, "out_proj.weight": weight[:, rows], "out_proj.bias": bias}


def restore_heads(
    parameters: Mapping[str, Tensor], kept: Sequence[int], heads: int, head_dim: int, key_width: int
) -> dict[str, Tensor]:
    """Return the state dict of a module of *heads* heads that computes the same: :func:`keep_heads` turned round.

    :param parameters: state dict of the compact module.
    :param kept: the places of its heads among all heads, the others of which are zeros.
    :param head_dim: width d_h of a head.
    :param key_width: width of what is attended to.
    """
    bias = parameters["out_proj.bias"]
    rows, width, inner = _rows(kept, head_dim).to(bias.device), len(bias), heads * head_dim
    full = {"out_proj.weight": bias.new_zeros(width, inner), "out_proj.bias": bias}
    for part, read in (("q", width), ("k", key_width), ("v", key_width)):
        full |= {f"{part}_proj.weight": bias.new_zeros(inner, read), f"{part}_proj.bias": bias.new_zeros(inner)}
        if kept:
            for kind in _KINDS:
                full[f"{part}_proj.{kind}"][rows] = parameters[f"{part}_proj.{kind}"]
    if kept:
        full["out_proj.weight"][:, rows] = parameters["out_proj.weight"]
    return full


def group_rows(new_order: Tensor, beams: int, sentences: int) -> tuple[Tensor | None, int]:
    """Return which sentences a new order of rows still needs, and how many rows each of them has.

    Beam search only ever mixes the rows of one sentence, so what all rows of a sentence share need not be copied. An
    order in which sentences have different numbers of rows gives each row a sentence of its own.

    :param new_order: for each new row, the old one. *Shape:* (B)
    :param beams: number of old rows for each sentence, side by side.
    :param sentences: number of old sentences.
    :return: the old sentences, or None if they are all needed as they are; the number of new rows for each.
    """
    wanted = new_order // beams if beams > 1 else new_order
    needed, counts = torch.unique_consecutive(wanted, return_counts=True)
    different = set(counts.tolist())
    if len(different) > 1:
        return wanted, 1
    return None if needed.tolist() == list(range(sentences)) else needed, different.pop()


def additive(padding: Tensor, like: Tensor) -> Tensor:
    """Return padding as a mask to add to attention scores. *Shape:* (B, S) → (B, 1, 1, S)"""
    mask = torch.zeros(padding.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(padding.bool(), float("-inf"))[:, None, None]


def _append(saved: dict[str, Any], kv: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Append a step to the saved ones, which are put into the order of the beams in the same copy.

    :param kv: *Shape:* (T, B, …).
    :param padding: *Shape:* (B, T).
    :return: both for all steps.
    """
    old, order, old_padding = saved["kv"], saved["order"], saved["padding"]
    (past, rows), now = (len(old), kv.shape[1]), len(kv)
    joined = kv.new_empty(past + now, *kv.shape[1:])
    if order is None:
        joined[:past] = old
    else:
        torch.index_select(old, 1, order, out=joined[:past])
    joined[past:] = kv
    if old_padding is None and padding is None:
        return joined, None
    if old_padding is None:
        old_padding = torch.zeros(rows, past, dtype=torch.bool, device=kv.device)
    elif order is not None:
        old_padding = old_padding.index_select(0, order)
    if padding is None:
        padding = torch.zeros(rows, now, dtype=torch.bool, device=kv.device)
    return joined, torch.cat([old_padding, padding.bool()], 1)


def _rows(heads: Sequence[int], head_dim: int) -> Tensor:
    """Return the rows of a projection that belong to *heads*."""
    return torch.tensor([h * head_dim + i for h in heads for i in range(head_dim)], dtype=torch.long)
