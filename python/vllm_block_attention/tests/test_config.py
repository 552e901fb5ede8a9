"""What vLLM and a model must be: needs vLLM itself."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

from vllm_block_attention.config import Settings, check_config, check_version


def supported(**changed: Any) -> tuple[Any, Any]:
    spec = FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=32, dtype=torch.float32)
    model: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "is_multimodal_model": False,
        "runner_type": "generate",
        "use_mla": False,
        "enable_prompt_embeds": False,
        "dtype": torch.float32,
    }
    parallel: dict[str, Any] = {"pipeline_parallel_size": 1, "decode_context_parallel_size": 1}
    transfer: dict[str, Any] = {"kv_role": "kv_both", "kv_load_failure_policy": "fail"}
    config: dict[str, Any] = {"lora_config": None, "speculative_config": None}
    for part in (model, parallel, transfer, config):
        part.update({name: value for name, value in changed.items() if name in part})
    specs = changed.get("specs", [spec])
    parts = {"model_config": model, "parallel_config": parallel, "kv_transfer_config": transfer}
    whole = {**config, **{name: SimpleNamespace(**part) for name, part in parts.items()}}
    groups = [SimpleNamespace(kv_cache_spec=each) for each in specs]
    return SimpleNamespace(**whole), SimpleNamespace(kv_cache_groups=groups)


FULL: dict[str, Any] = {"block_size": 32, "num_kv_heads": 1, "head_size": 32, "dtype": torch.float32}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"specs": [SlidingWindowSpec(**FULL, sliding_window=64)]}, "sliding windows is True"),
        ({"specs": [FullAttentionSpec(**FULL, sliding_window=64)]}, "sliding windows is True"),
        ({"specs": [FullAttentionSpec(**FULL)] * 2}, "kinds of KV cache is 2"),
        ({"specs": [FullAttentionSpec(**{**FULL, "dtype": torch.uint8})]}, "KV cache has torch.uint8"),
        ({"use_mla": True}, "MLA is True"),
        ({"is_multimodal_model": True}, "multimodal input is True"),
        ({"runner_type": "pooling"}, "runner is 'pooling'"),
        ({"enable_prompt_embeds": True}, "prompt embeddings is True"),
        ({"lora_config": object()}, "LoRA is True"),
        ({"speculative_config": object()}, "speculative decoding is True"),
        ({"pipeline_parallel_size": 2}, "pipeline parallel size is 2, wanted 1"),
        ({"kv_load_failure_policy": "recompute"}, "'recompute', wanted 'fail'"),
        ({"kv_role": "kv_consumer"}, "kv_role is 'kv_consumer', wanted 'kv_both'"),
        ({"architecture": "SmolLM3ForCausalLM"}, "the model is SmolLM3ForCausalLM"),
    ],
)
def test_check_config_refuses_by_name(changed: dict[str, Any], message: str) -> None:
    check_config(*supported())
    with pytest.raises(ValueError, match=message):
        check_config(*supported(**changed))


def test_check_version_names_what_was_found_and_wanted() -> None:
    check_version("0.32.4+cpu")
    for other in ("0.31.9", "0.33.0", "1.0"):
        with pytest.raises(ValueError, match=f"vLLM is {other}, wanted 0.32 or newer, and older than 0.33"):
            check_version(other)


def test_settings_refuse_what_they_do_not_know() -> None:
    assert Settings.of({"store": "x", "ram": "1MiB"}).ram == 2**20
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, 'no setting "store"'),
        ({"store": "x", "cap": 3}, 'a setting is "cap"'),
        ({"store": "x", "ram": -1}, '"ram" is -1'),
        ({"store": "x", "any_producer": "yes"}, "\"any_producer\" is 'yes'"),
        ({"store": "x", "model_identity": "abc"}, "wanted 64 hexadecimal digits"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            Settings.of(given)
