"""First weights that let heads look at the tokens just before, for models made from nothing."""

import math
from typing import Any

import torch
from torch import nn

PAIRS = 6
"""How many of RoPE's fastest pairs carry the offset; slower ones hardly tell neighbours apart."""

PAIR_SCORE = 5.0
"""What each pair adds to the score of the token at the offset: the next one then has a hundredth of its weight."""

CONSTANT = 8.0
"""The embeddings' first coordinate, in deviations of the others. As all tokens have it, it changes no probability."""


@torch.no_grad()
def look_back(model: nn.Module, offsets: list[int]) -> None:
    """Makes head `h` of the first layer attend to the token `offsets[h]` before, whatever the tokens are.

    An induction circuit (find where this was before, copy what followed) is two heads of different layers, of which
    neither is rewarded before the other is there. Given the first, a small model learns to choose what it copies,
    where without it it copied at random as long as it was tried (docs/log.md). It is a beginning only: training
    changes these weights as all others.

    A head has no bias, so that queries and keys are made from a coordinate that all embeddings share, turned by RoPE:
    their product is greatest at the offset. Heads that share keys may have different offsets.

    Raises ValueError where the model has fewer heads, norms its queries and keys, or has another RoPE.
    """
    if not offsets:
        return
    config: Any = model.config
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    heads, rope = config.num_attention_heads, getattr(config, "rope_parameters", None) or {}
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    if len(offsets) > heads:
        raise ValueError(f'"look_back" names {len(offsets)} heads, the model has {heads}')
    if hasattr(attention, "q_norm"):
        raise ValueError('"look_back" cannot be given to a model that norms its queries and keys')
    if "rope_theta" not in rope or rope.get("partial_rotary_factor", 1) != 1 or size < 2 * PAIRS:
        raise ValueError(f'"look_back" needs RoPE with one "rope_theta" over heads of at least {2 * PAIRS} dimensions')
    model.get_input_embeddings().weight[:, 0] = CONSTANT * config.initializer_range  # type: ignore[operator]
    normed = CONSTANT / math.sqrt(1 + CONSTANT**2 / config.hidden_size)
    strength = math.sqrt(PAIR_SCORE * math.sqrt(size)) / normed
    angles = rope["rope_theta"] ** (-2 * torch.arange(PAIRS) / size)
    standing = torch.cat((torch.ones(PAIRS), torch.zeros(PAIRS)))
    for head, offset in enumerate(offsets):
        turned = torch.cat((torch.cos(offset * angles), -torch.sin(offset * angles)))
        _set_rows(attention.q_proj, head, size, strength * turned)
        _set_rows(attention.k_proj, head * config.num_key_value_heads // heads, size, strength * standing)


def _set_rows(projection: nn.Linear, head: int, size: int, values: torch.Tensor) -> None:
    """Makes a head's vector depend on the first coordinate alone; `values` are of its fastest pairs of dimensions."""
    weight = projection.weight[head * size : (head + 1) * size]
    weight.zero_()
    weight[:PAIRS, 0] = values[:PAIRS].to(weight.dtype)
    weight[size // 2 : size // 2 + PAIRS, 0] = values[PAIRS:].to(weight.dtype)
