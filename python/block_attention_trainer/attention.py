"""Attention under a layout, four ways, through Transformers' attention interface.

`cells` writes the mask out cell by cell and is the oracle; `dense` is a mask made at once, for any device; `flex` is
FlexAttention, for CUDA; `segments` never makes a mask of row x row and is the fast one on CPUs. A model picks one by
`attn_implementation`, see `implementation_name()`; the layout comes as the model's keyword `layout`. Without a layout
(decoding one sample token by token) they are plain causal attention.
"""

from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .layout import Layout

Attention = Literal["cells", "dense", "flex", "segments"]
ATTENTIONS: tuple[Attention, ...] = ("cells", "dense", "flex", "segments")


def implementation_name(attention: Attention) -> str:
    """The name for Transformers' `attn_implementation`."""
    return f"block_{attention}"


def register_attention() -> None:
    """Makes the four known to Transformers; calling it again changes nothing.

    No mask is registered under these names: Transformers then makes none, since ours come with the layout.
    """
    for attention in ATTENTIONS:
        AttentionInterface.register(implementation_name(attention), _interface(attention))


def default_attention(device: torch.device | str) -> Attention:
    """The fastest way on a device: measured in docs/training.md."""
    kind = torch.device(device).type
    return "flex" if kind == "cuda" else "segments" if kind == "cpu" else "dense"


def _interface(attention: Attention) -> Any:
    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        for name in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise ValueError(f'Cannot attend: the model uses "{name}", which block attention does not compute')
        if layout is None:
            output: Tensor = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling
            )[0]
            return output, None
        if key.shape[2] != query.shape[2] or tuple(layout.shape) != (query.shape[0], query.shape[2]):
            raise ValueError(
                f"Cannot attend: {query.shape[0]} x {query.shape[2]} queries over {key.shape[2]} keys, against a "
                f"layout of {layout.shape[0]} x {layout.shape[1]}"
            )
        return attend(attention, query, key, value, layout, scaling, dropout).transpose(1, 2), None

    return forward


def attend(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of query [B, H, T, D] over key and value [B, Hkv, T, D] under a layout: [B, H, T, D].

    Raises ValueError where a way cannot do what is asked: FlexAttention knows no dropout.
    """
    if attention == "cells":
        return _masked(query, key, value, mask_by_cells(layout), scaling, dropout)
    if attention == "dense":
        return _masked(query, key, value, layout.dense_mask, scaling, dropout)
    if attention == "flex":
        if dropout > 0:
            raise ValueError(f"Cannot attend: FlexAttention has no dropout, and the model asks for {dropout}")
        return _flex(query, key, value, layout, scaling)
    return _segments(query, key, value, layout, scaling, dropout)


def mask_by_cells(layout: Layout) -> Tensor:
    """The oracle: [B, 1, T, T] of bool, one cell after another, as the rule reads. Slow, for tests."""
    sample, segment, is_final = (x.tolist() for x in (layout.sample, layout.segment, layout.is_final))
    length = layout.shape[1]
    cells = [
        [
            [
                sample[b][q] == sample[b][k]
                and k <= q
                and (segment[b][q] == segment[b][k] or (is_final[b][q] and not is_final[b][k]))
                for k in range(length)
            ]
            for q in range(length)
        ]
        for b in range(layout.shape[0])
    ]
    return torch.tensor(cells, dtype=torch.bool, device=layout.sample.device)[:, None]


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    mask = block_mask(layout)
    # Uncompiled on CPU: there it is the check of the mask, and has no backward.
    call = _compiled_flex() if q.device.type == "cuda" else flex_attention
    output = call(q, k, v, block_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(output, Tensor)
    return output


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def block_mask(layout: Layout) -> BlockMask:
    """FlexAttention's sparse mask of a layout, made once for a batch."""
    cached = layout.__dict__.get("block_mask")
    if isinstance(cached, BlockMask):
        return cached
    sample, segment, is_final = layout.sample, layout.segment, layout.is_final

    def sees(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        within = segment[b, q] == segment[b, k]
        over = is_final[b, q] & ~is_final[b, k]
        return (sample[b, q] == sample[b, k]) & (k <= q) & (within | over)

    rows, length = layout.shape
    mask = create_block_mask(sees, rows, None, length, length, device=sample.device.type)
    layout.__dict__["block_mask"] = mask
    return mask


def _segments(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scaling: float | None, dropout: float) -> Tensor:
    plan = layout.plan
    rows, heads, length, size = q.shape
    gqa = heads != k.shape[1]

    def tokens(x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(rows * length, x.shape[1], size)

    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        is_causal = mask is None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scaling, enable_gqa=gqa
        )
        return out.transpose(1, 2).reshape(-1, heads, size)

    q, k, v = tokens(q), tokens(k), tokens(v)
    results: list[Tensor] = []
    if plan.buckets:
        sizes = [bucket.num_segments * bucket.length for bucket in plan.buckets]
        parts = [pick(x, plan.causal_index, plan.causal_place).split(sizes) for x in (q, k, v)]
        for bucket, *qkv in zip(plan.buckets, *parts, strict=True):
            results.append(call(*(x.unflatten(0, (bucket.num_segments, bucket.length)) for x in qkv)))
    if plan.calls:
        cuts = [length for length, _ in plan.spans]
        for (_, number), *qkv in zip(plan.spans, q.split(cuts), k.split(cuts), v.split(cuts), strict=True):
            if number is not None:
                queries, keys, values = qkv
                queries = queries[plan.calls[number].num_keys - plan.calls[number].num_queries :]
                results.append(call(queries[None], keys[None], values[None], plan.masks[number][None, None]))
    joined = results[0] if len(results) == 1 else torch.cat(results)
    output = pick(joined, plan.output_index, plan.output_place)
    return output.view(rows, length, heads, size).transpose(1, 2)


class _Pick(torch.autograd.Function):
    """Rows by index where no row that matters is picked twice: the backward pass is a pick as well, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        missing = (place < 0).nonzero().squeeze(1)
        grad = grads[0].index_select(0, place.clamp(min=0))
        return (grad.index_fill(0, missing, 0) if len(missing) else grad), None, None


def pick(x: Tensor, index: Tensor, place: Tensor) -> Tensor:
    """x[index] along the first axis. `place[i]` is where row i stands in the result, -1 where it does not.

    Rows that `index` repeats beyond `place` are fillers: their gradient is dropped.
    """
    picked = _Pick.apply(x, index, place)
    assert isinstance(picked, Tensor)
    return picked
