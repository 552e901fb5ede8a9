"""Small data and small models for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VOCAB_SIZE = 64


def sample(sample_id: str, blocks: Sequence[Sequence[int]], response: Sequence[int], **fields: Any) -> dict[str, Any]:
    prompt = [i for block in blocks for i in block]
    return {
        "input_ids": [*prompt, *response],
        "labels": [-100] * len(prompt) + list(response),
        "block_lengths": [len(block) for block in blocks],
        "modes": ["block", "full"],
        "sample_id": sample_id,
        "group_id": None,
        **fields,
    }


def random_samples(seed: int, count: int, group_size: int = 1) -> list[dict[str, Any]]:
    """Samples of 1 to 4 local blocks; `group_size` samples in a row share a context."""
    rng = np.random.default_rng(seed)

    def ids(least: int, most: int) -> list[int]:
        return [int(i) for i in rng.integers(1, VOCAB_SIZE, rng.integers(least, most))]

    samples: list[dict[str, Any]] = []
    while len(samples) < count:
        context = [ids(1, 9) for _ in range(int(rng.integers(1, 5)))]
        group = f"g{len(samples)}" if group_size > 1 else None
        for _ in range(min(group_size, count - len(samples))):
            samples.append(sample(f"s{len(samples)}", [*context, ids(1, 6)], ids(1, 5), group_id=group))
    return samples


def write(path: Path, samples: Sequence[dict[str, Any]], row_group_size: int = 8, **metadata: str) -> Path:
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.int32())),
            ("labels", pa.list_(pa.int32())),
            ("block_lengths", pa.list_(pa.int32())),
            ("modes", pa.list_(pa.string())),
            ("sample_id", pa.string()),
            ("group_id", pa.string()),
        ],
        metadata={"tokenizer_digest": "none", **metadata},
    )
    pq.write_table(pa.Table.from_pylist(list(samples), schema=schema), path, row_group_size=row_group_size)
    return path
