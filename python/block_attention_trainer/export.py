"""A trained checkpoint as a Hugging Face folder that Transformers and the engine load as it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from .models import ModelError, load_tokenizer, saved_adapter
from .settings import ExportSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(checkpoint: Path, folder: Path, settings: ExportSettings) -> None:
    """Writes weights, config.json with `block_attention`, and the tokenizer; adapters are merged.

    The folder is complete or absent: it is written under another name first, and replaces one that is there.
    Raises ModelError for a checkpoint that is none, or that does not say how it was trained, and as refuse_loss().
    """
    refuse_loss(folder, [str(checkpoint)])
    dtype = DTYPES[settings.dtype]
    try:
        model: Any = (
            _merged(checkpoint, dtype)
            if saved_adapter(checkpoint)
            else AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
        )
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f'Cannot export "{checkpoint}": {" ".join(str(error).split()).rstrip(".")}') from error
    if not isinstance(getattr(model.config, "block_attention", None), dict):
        raise ModelError(f'Cannot export "{checkpoint}": its config.json has no "block_attention"')
    unfinished = _unfinished(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    # The cache is off while training; who loads the folder decodes with it.
    model.config.use_cache = True
    model.save_pretrained(unfinished, max_shard_size=settings.max_shard_bytes)
    load_tokenizer(str(checkpoint)).save_pretrained(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def export_adapter(checkpoint: Path, folder: Path, settings: ExportSettings) -> None:
    """Writes a checkpoint's adapter alone, in the type of `settings`, as PEFT and the engine's --adapter read it.

    The folder is complete or absent, as export()'s. Of the base's path only the name stays, where it is a folder here.
    Raises ModelError for a checkpoint without an adapter, and as refuse_loss().
    """
    refuse_loss(folder, [str(checkpoint)], "adapter_config.json")
    if not saved_adapter(checkpoint):
        raise ModelError(f'Cannot export "{checkpoint}": it has no adapter')
    config = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    base = Path(config["base_model_name_or_path"])
    if base.is_dir():
        config["base_model_name_or_path"] = base.name
    dtype = DTYPES[settings.dtype]
    weights = load_file(checkpoint / "adapter_model.safetensors")
    unfinished = _unfinished(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    written = {name: weight.to(dtype) for name, weight in weights.items()}
    save_file(written, unfinished / "adapter_model.safetensors", {"format": "pt"})
    (unfinished / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def refuse_loss(folder: Path, inputs: list[str], mark: str = "config.json") -> None:
    """Raises ModelError where export() would delete what it reads, or what no export has written: it lacks `mark`."""
    replaced = {folder.resolve(), _unfinished(folder).resolve()}
    for path in inputs:
        read = Path(path).resolve()
        if replaced & {read, *read.parents}:
            raise ModelError(f'Cannot write "{folder}": "{path}", which is read, lies in it')
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ModelError(f'Cannot write "{folder}": it is no folder, wanted one or a free name')
    if folder.exists() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise ModelError(f'Cannot write "{folder}": it is no folder of a model, wanted one or a free name')


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.unfinished")


def _merged(checkpoint: Path, dtype: torch.dtype) -> Any:
    from peft import PeftModel

    adapter = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    base = AutoModelForCausalLM.from_pretrained(adapter["base_model_name_or_path"], dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, checkpoint).merge_and_unload()
    # An adapter's checkpoint has no config.json of the model; this is what stood there while training.
    marks = json.loads((checkpoint / "block_attention.json").read_text(encoding="utf-8"))
    merged.config.block_attention = marks
    return merged.to(dtype)
