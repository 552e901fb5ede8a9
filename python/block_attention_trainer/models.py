"""Models and tokenizers: loaded or made anew, and checked for what block attention needs."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import processors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from .attention import Attention, implementation_name, register_attention
from .batch import Opening
from .layout import Encoding, Mode
from .settings import LoraSettings, ModelSettings

UNSUPPORTED_ROPE = ("dynamic", "longrope")
"""Angles that depend on the total length: a block's keys could not be moved."""


class ModelError(ValueError):
    """A model or tokenizer that cannot be trained; the message names it."""


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """With BOS where the engine puts it. Raises ModelError where there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f'Cannot load a tokenizer from "{folder}": {_one_line(error)}') from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    _settle_bos(tokenizer, folder)
    return tokenizer


def _settle_bos(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Makes `encode` put BOS first where the engine does, which what is saved then says as well.

    The engine's rule: `add_bos_token` of tokenizer_config.json decides, else a post-processor that puts a token first,
    else a Llama class. Transformers passes over `add_bos_token` for most classes, so the files are read as they are.
    """
    config, file = (_json_of(folder, name) for name in ("tokenizer_config.json", "tokenizer.json"))
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if file is None or backend is None:
        return
    config = config or {}
    adds, named = config.get("add_bos_token"), tokenizer.bos_token
    first = _first_of_template(file.get("post_processor"))
    is_llama = re.fullmatch("(Code)?Llama(TokenizerFast|Tokenizer)", str(config.get("tokenizer_class"))) is not None
    bos = None if adds is False else (named or first) if adds or (first is None and is_llama) else first
    bos_id = None if bos is None else backend.token_to_id(bos)
    if bos is not None and bos_id is None:
        raise ModelError(f'Cannot load a tokenizer from "{folder}": the beginning token "{bos}" has no id')
    alone, whole = tokenize(tokenizer, "a"), [int(i) for i in tokenizer.encode("a")]
    if whole[: len(whole) - len(alone)] == ([] if bos_id is None else [bos_id]):
        return
    special = [] if bos is None else [(bos, bos_id)]
    single = "$A" if bos is None else f"{bos} $A"
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    if bos is not None and tokenizer.bos_token != bos:
        tokenizer.bos_token = bos


def _json_of(folder: str, name: str) -> dict[str, Any] | None:
    path = cached_file(folder, name, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else None


def _first_of_template(processor: Any) -> str | None:
    """The token that a TemplateProcessing puts before a single text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        found = (_first_of_template(part) for part in processor.get("processors", []))
        return next((token for token in found if token is not None), None)
    if processor.get("type") != "TemplateProcessing" or not processor.get("single"):
        return None
    token = processor["single"][0].get("SpecialToken")
    return None if token is None else str(token["id"])


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text alone, nothing added."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [int(i) for i in ids]


def opening_of(tokenizer: PreTrainedTokenizerBase, prefix: str) -> Opening:
    """BOS where the tokenizer puts it before a text, and the prefix, tokenized alone."""
    alone, whole = tokenize(tokenizer, "a"), [int(i) for i in tokenizer.encode("a")]
    bos = tokenizer.bos_token_id
    adds = len(whole) > len(alone) and isinstance(bos, int) and whole[0] == bos
    return Opening(bos if adds and isinstance(bos, int) else None, tuple(tokenize(tokenizer, prefix)) if prefix else ())


def encoding_of(tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> Encoding:
    """What the blocks of `settings.repair` are encoded with. Raises ModelError for a lead-in without tokens."""
    items = dict(item.partition("=")[::2] for item in settings.repair.split(","))
    lead = tuple(tokenize(tokenizer, settings.lead)) if settings.lead is not None else ()
    bos = opening_of(tokenizer, "").bos
    if lead and bos is not None and lead[0] != bos:
        lead = (bos, *lead)
    if "lead" in items and not lead:
        raise ModelError('Cannot use "model.lead": it has no tokens')
    sinks = tuple(tokenize(tokenizer, "\n")) * int(items.get("sink", 0))
    return Encoding(lead, sinks, "preamble" in items)


def load_model(
    settings: ModelSettings,
    attention: Attention,
    *,
    lora: LoraSettings | None,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    keeps_start: bool = False,
) -> PreTrainedModel:
    """The model, with adapters where they are asked for: with `keeps_start`, that of `lora.adapter` once more, frozen.

    Raises ModelError for a model that cannot be trained.
    """
    register_attention()
    implementation = implementation_name(attention)
    quantized = lora is not None and lora.quantize == "4bit"
    try:
        if settings.architecture is not None:
            config = new_config(settings.architecture, tokenizer)
            check_config(config)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=implementation)
        else:
            path = settings.path or ""
            check_config(AutoConfig.from_pretrained(path))
            options: dict[str, Any] = {"dtype": dtype, "attn_implementation": implementation}
            if quantized:
                options["quantization_config"] = _four_bit()
            model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        where = f'"{settings.path}"' if settings.path else "the architecture"
        raise ModelError(f"Cannot load a model from {where}: {_one_line(error)}") from error
    return model if lora is None else _with_adapters(model, lora, quantized, keeps_start)


def new_config(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Any:
    """A configuration of keys that its model type knows; vocabulary and special ids come from the tokenizer.

    Raises ModelError for a key that the model type does not know.
    """
    values = dict(architecture)
    kind = values.pop("model_type")
    try:
        known = AutoConfig.for_model(kind)
    except (ValueError, KeyError) as error:
        raise ModelError(f'Cannot make a model: Transformers knows no "model_type" "{kind}"') from error
    for key in values:
        if key not in known.to_dict() and not hasattr(known, key):
            raise ModelError(f'Cannot make a model: "{kind}" has no key "{key}"')
    vocab_size = len(tokenizer)
    own = {
        "vocab_size": vocab_size,
        **{n: getattr(tokenizer, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    values = {**own, **values}
    if values["vocab_size"] < vocab_size:
        raise ModelError(
            f'Cannot make a model: its "vocab_size" is {values["vocab_size"]}, the tokenizer has {vocab_size} tokens'
        )
    return AutoConfig.for_model(kind, **values)


def check_config(config: Any) -> None:
    """Raises ModelError for what block attention cannot be right on."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {r.get("rope_type") for r in rope.values() if isinstance(r, dict)}
    for kind in UNSUPPORTED_ROPE:
        if kind in kinds:
            raise ModelError(
                f'Cannot train the model: its RoPE is "{kind}", whose angles depend on the total length, so that '
                "blocks cannot be moved"
            )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError("Cannot train the model: it has an encoder, wanted a decoder alone")


def longest_sample(config: Any) -> int | None:
    """Tokens that a sample may have: the model's positions, or its sliding window where that is shorter."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if getattr(config, "use_sliding_window", True) is False or (kinds and "sliding_attention" not in kinds):
        window = None
    limits = [limit for limit in (getattr(config, "max_position_embeddings", None), window) if limit]
    return min(limits) if limits else None


def block_attention_of(config: Any) -> dict[str, Any]:
    """What the model's config.json says under `block_attention`; empty where it says nothing."""
    own = getattr(config, "block_attention", None)
    return dict(own) if isinstance(own, dict) else {}


def mark_block_attention(config: Any, prefix: str, modes: tuple[Mode, ...], settings: ModelSettings) -> None:
    """Writes how the model is trained into its configuration; texts of a RAG prompt that stand there stay."""
    own = {key: value for key, value in block_attention_of(config).items() if key != "repair"}
    # As the engine reads it: a lead-in's text is a JSON string.
    lead = None if settings.lead is None else f"lead={json.dumps(settings.lead, ensure_ascii=False)}"
    repair = {} if settings.repair == "none" else {"repair": lead or settings.repair}
    config.block_attention = {**own, "version": 1, "prefix": prefix, "modes": list(modes), **repair}


def use_gradient_checkpointing(model: Any) -> None:
    """Under the name that this version of Transformers has for it."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def faster_precision(device: torch.device, width: int) -> Literal["float32", "bfloat16"]:
    """Names bfloat16 where it multiplies matrices at least 1.3 times as fast as float32, measured in about 0.1 s."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu":
        return "float32"

    def seconds(dtype: torch.dtype) -> float:
        x, w = torch.ones(256, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            x @ w
            best = min(best, time.perf_counter() - start)
        return best

    return "bfloat16" if seconds(torch.float32) > 1.3 * seconds(torch.bfloat16) else "float32"


TEACHER = "teacher"
"""The adapter's name in the model, and its folder in what is saved, where a run distils from the one it began with."""


@contextmanager
def as_teacher(model: Any) -> Iterator[None]:
    """Makes a model with adapters the frozen teacher: with the adapter it began with, else with none."""
    if TEACHER not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(TEACHER)
    try:
        yield
    finally:
        model.set_adapter("default")


def fingerprint(model: Any) -> str:
    """Of all weights but those that are trained: what a teacher says goes by it."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def saved_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _four_bit() -> Any:
    if not torch.cuda.is_available():
        raise ModelError('Cannot use "lora.quantize": "4bit" needs CUDA, there is none here')
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError('Cannot use "lora.quantize": "4bit" needs the package bitsandbytes') from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _with_adapters(model: Any, settings: LoraSettings, quantized: bool, keeps_start: bool) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if settings.adapter is not None:
        return _from_adapter(PeftModel, model, settings, keeps_start)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT divides by it, a float is well
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    try:
        adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f'Cannot use "lora.target_modules": {_one_line(error)}') from error
    return adapted


def _from_adapter(peft: Any, model: Any, settings: LoraSettings, keeps_start: bool) -> Any:
    """The model with an adapter that is there already. Raises ModelError where it is another than the settings say."""
    path = settings.adapter
    try:
        adapted = peft.from_pretrained(model, path, is_trainable=True)
        if keeps_start:
            adapted.load_adapter(path, TEACHER)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f'Cannot load the adapter "{path}": {_one_line(error)}') from error
    config = adapted.peft_config["default"]
    if (config.r, config.lora_alpha) != (settings.rank, settings.alpha):
        raise ModelError(
            f'Cannot go on from the adapter "{path}": its rank is {config.r} and its alpha {config.lora_alpha}, "lora" '
            f"says {settings.rank} and {settings.alpha}"
        )
    return adapted


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
