"""What vLLM and a model must be for the connector, checked at start; and the model's identity."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm
from packaging.version import Version
from vllm.v1.kv_cache_interface import FullAttentionSpec

from .block_kv import hash_fields
from .store import parse_bytes

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

OLDEST, TOO_NEW = "0.32", "0.33"
# All layers of these attend to all that stands before, with one RoPE.
ARCHITECTURES = (
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
KV_TYPES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}


@dataclass(frozen=True)
class Settings:
    """`kv_connector_extra_config`."""

    store: str
    """Where blocks rest: a folder, `./blocks?cap=20GB`, or `redis://host`."""
    model_identity: str | None = None
    """As `block-attention info --identity` tells it of the same weights. Default: a digest of the model's files, which
    names blocks that are vLLM's alone."""
    ram: int = 1 << 30
    """Of blocks used last, in bytes, in each worker."""
    any_producer: bool = False
    """Whether blocks that another program or processor computed are used: they differ in the last bits."""
    load_timeout_s: float = 60.0
    """How long the blocks of a request may take to be read."""
    threads: int = 4

    @staticmethod
    def of(given: Mapping[str, Any]) -> "Settings":
        """Raises ValueError for a setting that is unknown, missing or of another kind."""
        known = {each.name for each in fields(Settings)}
        if unknown := sorted(given.keys() - known):
            raise ValueError(f'Cannot use Block-Attention: a setting is "{unknown[0]}", wanted one of {sorted(known)}')
        if not isinstance(given.get("store"), str):
            raise ValueError('Cannot use Block-Attention: there is no setting "store", wanted a folder')
        values = dict(given)
        if isinstance(values.get("ram"), str):
            values["ram"] = parse_bytes(values["ram"])
        for name, kinds in {
            "ram": (int,),
            "any_producer": (bool,),
            "load_timeout_s": (int, float),
            "threads": (int,),
        }.items():
            if name in values and (type(values[name]) not in kinds or values[name] < 0):
                raise ValueError(
                    f'Cannot use Block-Attention: "{name}" is {values[name]!r}, wanted {kinds[0].__name__}'
                )
        identity = values.get("model_identity")
        if identity is not None and not (
            isinstance(identity, str) and len(identity) == 64 and set(identity) <= set("0123456789abcdef")
        ):
            raise ValueError(
                f'Cannot use Block-Attention: "model_identity" is {identity!r}, wanted 64 hexadecimal digits'
            )
        return Settings(**values)


def check_version(found: str) -> None:
    """Raises ValueError for a vLLM whose connectors may be others."""
    if not Version(OLDEST) <= Version(Version(found).base_version) < Version(TOO_NEW):
        raise ValueError(
            f"Cannot use Block-Attention: vLLM is {found}, wanted {OLDEST} or newer, and older than {TOO_NEW}"
        )


def check_config(config: "VllmConfig", kv_cache: "KVCacheConfig") -> None:
    """Raises ValueError that names what is not supported."""
    check_version(vllm.__version__)
    model, parallel, transfer = config.model_config, config.parallel_config, config.kv_transfer_config
    assert transfer is not None
    specs = [group.kv_cache_spec for group in kv_cache.kv_cache_groups]
    windows = [getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None) for spec in specs]
    architecture = getattr(model, "architecture", None) or model.architectures[0]
    unwanted = {
        "kv_role": (transfer.kv_role, "kv_both"),
        "kv_load_failure_policy": (transfer.kv_load_failure_policy, "fail"),
        "pipeline parallel size": (parallel.pipeline_parallel_size, 1),
        "decode context parallel size": (parallel.decode_context_parallel_size, 1),
        "prefill context parallel size": (getattr(parallel, "prefill_context_parallel_size", 1), 1),
        "LoRA": (config.lora_config is not None, False),
        "speculative decoding": (config.speculative_config is not None, False),
        "multimodal input": (model.is_multimodal_model, False),
        "the runner": (model.runner_type, "generate"),
        "MLA": (model.use_mla, False),
        "sliding windows": (any(windows), False),
        "kinds of KV cache": (len(specs), 1),
        "prompt embeddings": (model.enable_prompt_embeds, False),
    }
    for name, (found, wanted) in unwanted.items():
        if found != wanted:
            raise ValueError(f"Cannot use Block-Attention: {name} is {found!r}, wanted {wanted!r}")
    if type(specs[0]) is not FullAttentionSpec:
        raise ValueError(
            f"Cannot use Block-Attention: the KV cache is {type(specs[0]).__name__}, wanted FullAttentionSpec"
        )
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"Cannot use Block-Attention: the model is {architecture}, wanted one of {', '.join(ARCHITECTURES)}"
        )
    if specs[0].dtype != model.dtype or model.dtype not in KV_TYPES:
        raise ValueError(
            f"Cannot use Block-Attention: the KV cache has {specs[0].dtype}, wanted the model's type {model.dtype}"
        )


def model_identity(config: "VllmConfig", settings: Settings) -> str:
    """The setting's, or a digest of the model's settings and files. Raises ValueError where there are none."""
    if settings.model_identity is not None:
        return settings.model_identity
    model = config.model_config
    files = sorted(Path(model.model).glob("*.safetensors"))
    if not files:
        raise ValueError(
            f'Cannot name the model: "{model.model}" is no folder of safetensors, wanted one or "model_identity"'
        )
    about = {
        name: value
        for name, value in model.hf_config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version")
    }
    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(_digest, files))
    return hash_fields(
        "block-attention vllm model", json.dumps(about, sort_keys=True, default=str), str(model.quantization), *digests
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_by(config: "VllmConfig") -> dict[str, str]:
    """The fields of a block's file that say what computed it."""
    return {"producer": _producer(), "compute": str(config.model_config.dtype).removeprefix("torch.")}


def _producer() -> str:
    """What computes blocks here: another program or processor gives other last bits."""
    if torch.cuda.is_available():
        return f"vllm {vllm.__version__}, {torch.cuda.get_device_name()}"
    return f"vllm {vllm.__version__}, CPU {torch.backends.cpu.get_cpu_capability()}"
