"""Small data and small models for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 64


def sample(sample_id: str, blocks: Sequence[Sequence[int]], response: Sequence[int], **fields: Any) -> dict[str, Any]:
    """A row; with `is_global` among the fields, of a file of spans."""
    prompt = [i for block in blocks for i in block]
    lengths = "span_lengths" if "is_global" in fields else "block_lengths"
    return {
        "input_ids": [*prompt, *response],
        "labels": [-100] * len(prompt) + list(response),
        lengths: [len(block) for block in blocks],
        "modes": ["block", "full"],
        "sample_id": sample_id,
        "group_id": None,
        **fields,
    }


def random_samples(seed: int, count: int, group_size: int = 1, spans: bool = False) -> list[dict[str, Any]]:
    """Samples of 1 to 4 blocks, local or, of spans, of either kind; `group_size` samples in a row share a context."""
    rng = np.random.default_rng(seed)

    def ids(least: int, most: int) -> list[int]:
        return [int(i) for i in rng.integers(1, VOCAB_SIZE, rng.integers(least, most))]

    samples: list[dict[str, Any]] = []
    while len(samples) < count:
        context = [ids(1, 9) for _ in range(int(rng.integers(1, 5)))]
        group = f"g{len(samples)}" if group_size > 1 else None
        kinds = {"is_global": [*(bool(x) for x in rng.integers(0, 2, len(context))), True]} if spans else {}
        for _ in range(min(group_size, count - len(samples))):
            samples.append(sample(f"s{len(samples)}", [*context, ids(1, 6)], ids(1, 5), group_id=group, **kinds))
    return samples


def write(path: Path, samples: Sequence[dict[str, Any]], row_group_size: int = 8, **metadata: str) -> Path:
    ints = pa.list_(pa.int32())
    has_spans = any("is_global" in sample for sample in samples)
    lengths = {"span_lengths": ints, "is_global": pa.list_(pa.bool_())} if has_spans else {"block_lengths": ints}
    schema = pa.schema(
        [
            ("input_ids", ints),
            ("labels", ints),
            *lengths.items(),
            ("modes", pa.list_(pa.string())),
            ("sample_id", pa.string()),
            ("group_id", pa.string()),
        ],
        metadata={"tokenizer_digest": "none", **metadata},
    )
    pq.write_table(pa.Table.from_pylist(list(samples), schema=schema), path, row_group_size=row_group_size)
    return path


def word_tokenizer(folder: Path, bos: bool = False) -> Path:
    """A tokenizer of VOCAB_SIZE words "w0", "w1" …: w0 begins where `bos`, w1 ends, w2 pads."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="w0 $A", special_tokens=[("w0", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="w1", pad_token="w2", bos_token="w0" if bos else None
    )
    fast.save_pretrained(folder)
    return folder


ARCHITECTURE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def run_settings(folder: Path, **sections: Any) -> dict[str, Any]:
    """Settings of a small run in `folder`, whose data and tokenizer are made; sections are merged in."""
    if not (folder / "tokenizer").exists():
        word_tokenizer(folder / "tokenizer", bos=True)
        write(folder / "train.parquet", random_samples(1, 40, group_size=2))
        write(folder / "dev.parquet", random_samples(2, 12, group_size=2))
    settings: dict[str, Any] = {
        "output_folder": str(folder / "runs"),
        "run_name": "run",
        "model": {"architecture": ARCHITECTURE, "tokenizer": str(folder / "tokenizer"), "prefix": "w7 w8"},
        "data": {"train": [str(folder / "train.parquet")], "max_tokens": 60},
        "packing": {"tokens_per_row": 64},
        "optimizer": {"learning_rate": 0.01},
        "training": {"steps": 6, "rows_per_step": 4, "precision": "float32", "threads": 1},
        "logging": {"every_steps": 2, "tensorboard": False},
    }
    return {**settings, **{key: _merged(settings.get(key), value) for key, value in sections.items()}}


def _merged(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
