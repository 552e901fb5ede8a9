"""Heads that look back before anything is learned."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from block_attention_trainer.initialization import look_back


def new_model(kind: str = "llama", **changed: Any) -> Any:
    architecture = {
        "vocab_size": 300,
        "hidden_size": 256,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **changed,
    }
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **architecture), attn_implementation="eager")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_a_head_looks_at_the_token_so_many_before(kind: str, theta: float) -> None:
    model = new_model(kind, rope_parameters={"rope_type": "default", "rope_theta": theta})
    plain = model(torch.arange(40)[None], output_attentions=True).attentions[0][0]
    look_back(model, [1, 2, 4])
    seen = model(torch.arange(40)[None], output_attentions=True).attentions[0][0]
    for head, offset in enumerate([1, 2, 4]):
        assert seen[head].diagonal(-offset).mean() > 0.8
    assert seen[3, 30].max() < 0.2
    assert plain[:, 30].max() < 0.2


def test_nothing_asked_for_changes_nothing() -> None:
    model, other = new_model(), new_model()
    look_back(model, [])
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "changed", "offsets", "message"),
    [
        ("llama", {}, [1, 1, 1, 1, 1], "names 5 heads, the model has 4"),
        ("qwen3", {}, [1], "norms its queries and keys"),
        ("llama", {"head_dim": 8}, [1], "heads of at least 12 dimensions"),
    ],
)
def test_what_cannot_look_back(kind: str, changed: dict[str, Any], offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_back(new_model(kind, **changed), offsets)
