"""Attention under a layout, four ways, through Transformers' attention interface.

`cells` writes the mask out cell by cell and is the oracle; `dense` is a mask made at once, for any device; `flex` is
FlexAttention, for CUDA; `segments` never makes a mask of row x row and is the fast one on CPUs. A model picks one by
`attn_implementation`, see `implementation_name()`; the layout comes as the model's keyword `layout`. Without a layout
(decoding one sample token by token) they are plain causal attention.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .layout import Kind, Layout, SegmentPlan

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
    """The fastest way on a device: measured in docs/benchmarks.md."""
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
    sample, segment, kind = (x.tolist() for x in (layout.sample, layout.segment, layout.kind))
    length = layout.shape[1]
    cells = [
        [
            [
                sample[b][q] == sample[b][k]
                and k <= q
                and (
                    segment[b][q] == segment[b][k]
                    or (kind[b][q] in (Kind.GLOBAL, Kind.FINAL) and kind[b][k] not in (Kind.FINAL, Kind.LEAD))
                    or (kind[b][q] == Kind.LOCAL and kind[b][k] == Kind.PREAMBLE)
                )
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
    sample, segment = layout.sample, layout.segment
    is_over, is_under = layout.sees_context, layout.is_context
    is_local, is_preamble = layout.kind == Kind.LOCAL, layout.kind == Kind.PREAMBLE

    def sees(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        within = segment[b, q] == segment[b, k]
        over = (is_over[b, q] & is_under[b, k]) | (is_local[b, q] & is_preamble[b, k])
        return (sample[b, q] == sample[b, k]) & (k <= q) & (within | over)

    rows, length = layout.shape
    mask = create_block_mask(sees, rows, None, length, length, device=sample.device.type)
    layout.__dict__["block_mask"] = mask
    return mask


def _segments(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scaling: float | None, dropout: float) -> Tensor:
    if dropout > 0 or q.device.type != "cpu":
        return _masked(q, k, v, layout.dense_mask, scaling, dropout)
    if torch.is_autocast_enabled("cpu"):
        # As for PyTorch's own attention: rotated queries and keys come in float32, values do not.
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    rows, heads, length, size = q.shape
    # Tokens of all rows one after another: [tokens, heads, size].
    tokens = (x.transpose(1, 2).reshape(rows * length, x.shape[1], size) for x in (q, k, v))
    output = _SegmentAttention.apply(*tokens, layout.plan, scaling)
    assert isinstance(output, Tensor)
    return output.view(rows, length, heads, size).transpose(1, 2)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SegmentAttention(torch.autograd.Function):
    """Softmax over a segment and over its context apart, joined by the logarithms of their sums.

    The backward pass of either part takes the joined output and sums: what it recomputes from them are the joined
    probabilities (as blockwise and ring attention do it, arXiv:2310.01889). So no mask is made, and no cell is computed
    that is not seen, but for half of a causal tile and padding.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: SegmentPlan, scale: float | None) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        all_k, all_v = (x.repeat_interleave(groups, 1) for x in (k, v))
        outputs: list[Tensor] = []
        sums: list[Tensor] = []
        for inputs in _buckets(plan, q, all_k, all_v):
            output, log_sums = _flash(*inputs, 0.0, True, scale=scale)
            outputs.append(_flat(output))
            sums.append(_flat(log_sums[..., None]))
        padded_sums = torch.cat(sums)
        joined = torch.cat(outputs).index_select(0, plan.place)
        log_sum = padded_sums.index_select(0, plan.place)
        for call in plan.calls:
            keys, queries = call
            over, log_sums = _flash(
                _heads(q[queries]), _heads(all_k[keys]), _heads(all_v[keys]), 0.0, False, scale=scale
            )
            own, context = log_sum[queries], _flat(log_sums[..., None])
            both = torch.logaddexp(own, context)
            shares = (own - both).exp().to(q.dtype), (context - both).exp().to(q.dtype)
            joined[queries] = joined[queries] * shares[0] + _flat(over) * shares[1]
            log_sum[queries] = both
        # Padding keeps its own sums: probabilities that are recomputed from them stay finite, and weigh nothing.
        padded_sums.index_copy_(0, plan.place, log_sum)
        ctx.save_for_backward(q, k, v, joined, log_sum, padded_sums)
        ctx.plan, ctx.scale = plan, scale
        return joined

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, joined, log_sum, padded_sums = ctx.saved_tensors
        plan, scale = ctx.plan, ctx.scale
        grad = grads[0].contiguous()
        groups = q.shape[1] // k.shape[1]
        all_k, all_v = (x.repeat_interleave(groups, 1) for x in (k, v))
        padded_grad = grad.new_zeros(len(plan.index), *grad.shape[1:]).index_copy_(0, plan.place, grad)
        parts: list[tuple[Tensor, ...]] = []
        for bucket, d_output, log_sums, inputs in zip(
            plan.buckets,
            padded_grad.split(_sizes(plan)),
            padded_sums.split(_sizes(plan)),
            _buckets(plan, q, all_k, all_v, joined),
            strict=True,
        ):
            shape = (bucket.num_segments, bucket.length)
            d_heads, logs = (x.unflatten(0, shape).transpose(1, 2) for x in (d_output, log_sums))
            given = _flash_backward(d_heads, *inputs, logs[..., 0], 0.0, True, scale=scale)
            parts.append(tuple(_flat(x) for x in given))
        dq, dk, dv = (torch.cat(x).index_select(0, plan.place) for x in zip(*parts, strict=True))
        for call in plan.calls:
            keys, queries = call
            inputs = (grad[queries], q[queries], all_k[keys], all_v[keys], joined[queries], log_sum[queries])
            *heads, logs = (_heads(x) for x in inputs)
            d_queries, d_keys, d_values = _flash_backward(*heads, logs[..., 0], 0.0, False, scale=scale)
            dq[queries] += _flat(d_queries)
            dk[keys] += _flat(d_keys)
            dv[keys] += _flat(d_values)
        return dq, *(x.unflatten(1, (-1, groups)).sum(2) for x in (dk, dv)), None, None


def _sizes(plan: SegmentPlan) -> list[int]:
    return [bucket.num_segments * bucket.length for bucket in plan.buckets]


def _buckets(plan: SegmentPlan, *inputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of each bucket, the inputs as [segments, heads, length, size]."""
    parts = [x.index_select(0, plan.index).split(_sizes(plan)) for x in inputs]
    for bucket, *of_bucket in zip(plan.buckets, *parts, strict=True):
        shape = (bucket.num_segments, bucket.length)
        yield tuple(x.unflatten(0, shape).transpose(1, 2) for x in of_bucket)


def _heads(x: Tensor) -> Tensor:
    """[tokens, heads, size] as [1, heads, tokens, size]."""
    return x.transpose(0, 1)[None]


def _flat(x: Tensor) -> Tensor:
    """[rows, heads, tokens, size] as [rows x tokens, heads, size]."""
    return x.transpose(1, 2).flatten(0, 1)
