"""Attention with a gate on every head, or with only some of its heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from .cached_keys import SAVED, additive_mask, append_step
from .entering import with_gradients
from .gates import scale_columns
from .kinds import UnitModule

IncrementalState = dict[str, dict[str, Any]]


class PrunableAttention(MultiheadAttention):
    """fairseq's multi-head attention, parameters and names included, whose heads can be gated or left out.

    - As built, it is the stock attention.
    - With :attr:`gate` it is the stock attention with the columns of ``out_proj`` that read head h scaled by g_h: the
      same as scaling the head's output.
    - With :attr:`kept` it computes those heads only, from what it is :attr:`given` of the full parameters.
    - After `remove` it has parameters for those heads only; without heads, only the output bias.

    In the last two cases keys and values of the encoder are kept once a sentence, not once a beam: the queries' batch
    may be a multiple of the keys', the rows of each sentence side by side.
    """

    gate: Tensor | None = None
    """What multiplies each column of ``out_proj``: the gate of the head that it reads; None for 1. *Shape:* (H · d)"""

    given: tuple[Tensor, ...] = ()
    """In place of parameters, see :class:`~.kinds.GatedModule`: ``out_proj.weight`` scaled, or parts of all of them."""

    removed = False
    """Whether there are parameters for the kept heads only."""

    gives_weights = True
    _kept: tuple[int, ...] | None = None
    _joined_parts: str | None = None

    @staticmethod
    def of(attention: MultiheadAttention) -> PrunableAttention:
        """Make an attention module that fairseq built a prunable one, with its parameters and options."""
        attention.__class__ = PrunableAttention
        return attention

    @property
    def kept(self) -> tuple[int, ...] | None:
        """The only heads to compute; None for all there are parameters for."""
        return self._kept

    @kept.setter
    def kept(self, kept: Sequence[int] | None) -> None:
        kept = None if kept is None or len(kept) == self.num_heads else tuple(kept)
        if kept != self._kept:
            self._kept = kept
            for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
                layer.weight.at_rest = kept == ()  # the optimiser leaves it as it is

    @property
    def owner(self) -> PrunableAttention:
        """Itself: what has the parameters."""
        return self

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The names of its parameters, those of projections of one input together."""
        return *(
            tuple(f"{part}_proj.{name}" for part in parts) for parts in self._inputs for name in ("weight", "bias")
        ), ("out_proj.weight",)

    @property
    def _inputs(self) -> tuple[str, ...]:
        """The projections of each of its inputs."""
        return ("qkv",) if self.self_attention else ("q", "kv")

    @property
    def can_skip_units(self) -> bool:
        """Whether some of the heads can be left out; other options of the stock attention need them all."""
        return not (self.use_xformers or self.add_zero_attn or self.bias_k is not None)

    @property
    def is_noisy(self) -> bool:
        """Whether training changes the projections' parameters where they are called, as quantisation noise does."""
        return bool(self.out_proj._forward_pre_hooks)

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
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend. The arguments are the stock attention's; where heads are left out, *value* is taken to be *key*.

        :param query: *Shape:* (T, B, C).
        :param key: *Shape:* (S, B', C'), B a multiple of B'; with *static_kv*, read at the first step of decoding only.
        :param key_padding_mask: true where there is padding. *Shape:* (B', S).
        :param attn_mask: added to the scores. *Shape:* (T, S).
        :return: the result, *Shape:* (T, B, C), and, if asked for, the probabilities: the mean over the heads,
            *Shape:* (B, T, S), or, with *need_head_weights*, each head's, *Shape:* (H, B, T, S).
        """
        if self.removed or self._kept is not None:
            need_weights = need_weights or need_head_weights
            x, weights = self._attend(
                query, key, key_padding_mask, incremental_state, need_weights, static_kv, attn_mask
            )
            return x, weights.mean(0) if weights is not None and not need_head_weights else weights
        stock = super().forward
        arguments = (query, key, value, key_padding_mask, incremental_state, need_weights, static_kv, attn_mask)
        if self.gate is None and not self.given:
            return stock(*arguments, before_softmax, need_head_weights)
        # the scaled matrix stands before the parameter, which nn.Module looks up in a dictionary of its own
        scaled = self.given[0] if self.gate is None else scale_columns(self.out_proj.weight, self.gate)
        self.out_proj.__dict__["weight"] = scaled
        try:
            return stock(*arguments, before_softmax, need_head_weights)
        finally:
            del self.out_proj.__dict__["weight"]

    def remove(self, description: UnitModule, kept: Sequence[int]) -> None:
        """Remove the parameters of all heads that are not *kept*, for good.

        :raises ValueError: if the attention needs all its heads.
        """
        if not self.can_skip_units:
            raise ValueError(
                "attention with xformers, bias_kv or zero_attn needs all its heads: no head can be removed from it"
            )
        self.gate, self.kept, self.given = None, None, ()
        left = description.remove(self.state_dict(), kept)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            trained = getattr(self, name).bias.requires_grad
            own = {part: left.get(f"{name}.{part}") for part in ("weight", "bias")}
            layer: Any = getattr(self, name) if kept else nn.Module()  # without heads, nothing is multiplied any more
            for part, value in own.items():
                setattr(layer, part, None if value is None else nn.Parameter(value, requires_grad=trained))
            if kept:
                layer.out_features, layer.in_features = layer.weight.shape
            setattr(self, name, layer)
        self.num_heads, self.removed = len(kept), True

    def _join_projections(self) -> None:
        """Have the projections of one input share a matrix, which is faster; see `lay_out_for_decoding`."""
        self._joined_parts = "kv" if self.encoder_decoder_attention else "qkv"
        layers = [getattr(self, f"{part}_proj") for part in self._joined_parts]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = torch.cat([layer.bias.detach() for layer in layers])
        self.register_buffer("_joined_weight", weight.t().contiguous().t(), persistent=False)
        self.register_buffer("_joined_bias", bias, persistent=False)
        for layer, w, b in zip(layers, self._joined_weight.chunk(len(layers)), bias.chunk(len(layers)), strict=True):
            layer.weight, layer.bias = nn.Parameter(w, requires_grad=False), nn.Parameter(b, requires_grad=False)

    def _attend(
        self,
        query: Tensor,
        key: Tensor | None,
        padding: Tensor | None,
        incremental_state: IncrementalState | None,
        need_weights: bool,
        static_kv: bool,
        attn_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the result and the probabilities of each head. *Shapes:* (T, B, C); (H, B, T, S)"""
        heads = self.num_heads if self._kept is None else len(self._kept)
        if heads == 0:
            x = self.out_proj.bias.expand_as(query)
            if self.removed:
                return x, None
            # all that the stock attention reads still has a gradient, of 0, as other processes expect
            read = [query] if key is None or key is query else [query, key]
            return with_gradients(x, *read, *self.parameters()), None
        if self.encoder_decoder_attention:
            q = self._project(query, "q")
            k, v, mask = self._encoder_keys(key, padding, q.shape[1], heads, incremental_state if static_kv else None)
        else:
            if self.self_attention:
                q, kv = self._project(query, "qkv").split((heads * self.head_dim, 2 * heads * self.head_dim), -1)
            else:
                q, kv = self._project(query, "q"), self._project(query if key is None else key, "kv")
            k, v, mask = self._own_keys(kv, padding, heads, incremental_state)
        if attn_mask is not None:
            mask = attn_mask.to(q) if mask is None else mask + attn_mask.to(q)
        steps, rows, _ = q.shape
        sentences = k.shape[0]
        # the rows of one sentence query the same keys: (T, B' · R, H · d) → (B', H, R · T, d)
        q = q.reshape(steps, sentences, rows // sentences, heads, self.head_dim).permute(1, 3, 2, 0, 4).flatten(2, 3)
        drop = self.dropout_module
        dropout = drop.p if self.training or drop.apply_during_inference else 0.0
        weights: Tensor | None = None
        if self.gives_weights and need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            probabilities = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32)
            x = F.dropout(probabilities.to(q), dropout) @ v
            weights = probabilities.unflatten(2, (-1, steps)).permute(1, 0, 2, 3, 4).flatten(1, 2)
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        x = x.unflatten(2, (-1, steps)).permute(3, 0, 2, 1, 4).reshape(steps, rows, -1)
        return self.out_proj(x) if self.removed else F.linear(x, self.given[-1], self.out_proj.bias), weights

    def _project(self, x: Tensor, parts: str) -> Tensor:
        """Return the projections *parts* of the heads to compute, side by side. *Shape:* (…, C) → (…, parts · H · d)"""
        x = x.contiguous()  # the first layer's input is transposed, which a product with a bias is slow for
        if not self.removed:
            first = 2 * self._inputs.index(parts)
            return F.linear(x, self.given[first], self.given[first + 1])
        if self._joined_parts == parts:
            return F.linear(x, self._joined_weight, self._joined_bias)
        layers = [getattr(self, f"{part}_proj") for part in parts]
        if len(layers) == 1 or self.is_noisy:
            return torch.cat([layer(x) for layer in layers], -1) if len(layers) > 1 else layers[0](x)
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        return F.linear(x, weight, bias)

    def _encoder_keys(
        self, key: Tensor | None, padding: Tensor | None, rows: int, heads: int, state: IncrementalState | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values, *Shape:* (B', H, S, d), and the mask, computed at the first step of decoding only."""
        saved = self._get_input_buffer(state)
        if not saved:
            assert key is not None
            kv = self._project(key, "kv").view(*key.shape[:2], 2, heads, self.head_dim).permute(2, 1, 3, 0, 4)
            if state is not None:
                kv = kv.contiguous()  # it will be read at every step
                padding = padding if padding is not None and padding.any() else None
            mask = None if padding is None else additive_mask(padding, kv)
            saved = {SAVED: kv, "mask": mask, "beams": rows // kv.shape[1]}
            if state is not None:
                state[self._key()] = saved
        k, v = saved[SAVED]
        return k, v, saved["mask"]

    def _own_keys(
        self, kv: Tensor, padding: Tensor | None, heads: int, state: IncrementalState | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values, *Shape:* (B, H, S, d), and the mask, of this step and all earlier ones of decoding.

        :param kv: this step's keys and values. *Shape:* (T, B, 2 · H · d).
        """
        if state is not None:
            saved = self._get_input_buffer(state)
            if saved:
                kv, padding = append_step(saved, kv, padding)
            state[self._key()] = {SAVED: kv, "padding": padding, "order": None}
        k, v = kv.view(*kv.shape[:2], 2, heads, self.head_dim).permute(2, 1, 3, 0, 4)
        return k, v, None if padding is None else additive_mask(padding, k)

    def reorder_incremental_state(self, incremental_state: IncrementalState | None, new_order: Tensor) -> Any:
        """Make the state saved for decoding the one of the rows *new_order*. *Shape:* (B)"""
        saved = self.saved(incremental_state)
        if not saved:
            return super().reorder_incremental_state(incremental_state, new_order)
        if self.encoder_decoder_attention:
            self.keep_sentences(incremental_state, *group_rows(new_order, saved["beams"], saved[SAVED].shape[1]))
        else:
            # done in the copy that appends the next step; two orders with no step between them are one
            saved["order"] = new_order if saved["order"] is None else saved["order"].index_select(0, new_order)
        return incremental_state

    def keep_sentences(self, incremental_state: IncrementalState | None, sentences: Tensor | None, beams: int) -> None:
        """Keep the encoder's keys and values of *sentences* only, each with *beams* rows; see `group_rows`."""
        saved = self.saved(incremental_state)
        if not saved:
            return
        saved["beams"] = beams
        if sentences is not None:
            saved[SAVED] = saved[SAVED].index_select(1, sentences)
            if saved["mask"] is not None:
                saved["mask"] = saved["mask"].index_select(0, sentences)

    def _key(self) -> str:
        return self._get_full_incremental_state_key("kept")

    def saved(self, incremental_state: IncrementalState | None) -> dict[str, Any]:
        """Return what was saved with heads left out; the stock attention saves under another key."""
        return {} if incremental_state is None else incremental_state.get(self._key(), {})

    def _get_input_buffer(self, incremental_state: IncrementalState | None) -> dict[str, Any]:
        """Return the saved state, for which the stock decoder layer asks at every step."""
        return self.saved(incremental_state) or super()._get_input_buffer(incremental_state)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs: Any) -> None:
        """Give probabilities no more unless *need_attn*; fairseq calls this before it generates or classifies."""
        self.gives_weights = need_attn
        if self.removed and self.num_heads:
            self._join_projections()


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
