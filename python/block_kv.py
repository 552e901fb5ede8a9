"""Reads the files in which block KV rest: docs/block-kv-format.md. Needs numpy alone."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "2"
MAX_HEADER_BYTES = 1 << 20
# numpy has no bfloat16: its bits are given as they are.
_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "f16": ("F16", np.dtype("<f2")),
    "bf16": ("BF16", np.dtype("<u2")),
    "f32": ("F32", np.dtype("<f4")),
    # 32 elements with one scale; safetensors has no such types.
    "q8_0": ("U8", np.dtype([("scale", "<f2"), ("codes", "i1", 32)])),
    "q4_0": ("U8", np.dtype([("scale", "<f2"), ("codes", "u1", 16)])),
}
_FIELDS = {"kind", "id", "context", "model", "owner", "kv_type", "pairs", "producer", "compute", "documents"}
_OPTIONAL = {"context", "documents"}


class BlockFileError(ValueError):
    """A file that is not a sound block's: an engine takes it for a miss."""


@dataclass
class BlockKV:
    """A block's file, its head checked. Keys of a block are those before RoPE, a page's are turned to its place."""

    path: Path
    fields: dict[str, str]
    """The header's metadata, what is not known of it too."""
    token_ids: np.ndarray[Any, np.dtype[np.int32]]
    shape: tuple[int, int, int, int, int]
    """[layers, 2, KV heads, tokens, head size], as the tensor has it: of types in blocks the last one is in bytes."""
    start: int
    layer_digests: bytes

    def layer(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Keys and values of a layer, [KV heads, tokens, head size]; q8_0 and q4_0 as float32. Raises BlockFileError for another digest."""
        name, dtype = _DTYPES[self.fields["kv_type"]]
        size = math.prod(self.shape[1:]) * (1 if name == "U8" else dtype.itemsize)
        with self.path.open("rb") as file:
            file.seek(self.start + index * size)
            data = file.read(size)
        if hashlib.sha256(data).digest() != self.layer_digests[32 * index : 32 * index + 32]:
            raise BlockFileError(f"Cannot read {self.path}: layer {index} does not match its digest")
        elements = np.frombuffer(data, dtype)
        if name == "U8":
            codes = elements["codes"].astype(np.int16)
            if self.fields["kv_type"] == "q4_0":
                # The low halves of the bytes are elements 0 to 15, the high ones 16 to 31.
                codes = np.concatenate([codes & 15, codes >> 4], axis=-1) - 8
            elements = codes * elements["scale"].astype(np.float32)[:, None]
        keys, values = elements.reshape(*self.shape[1:4], -1)
        return keys, values


def open_block(path: str | Path) -> BlockKV:
    """Reads and checks a file as far as its keys and values. Raises BlockFileError for what is not sound."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        _require(size >= 8 and length <= min(MAX_HEADER_BYTES, size - 8), path, "it does not start as one does")
        text = file.read(length)
        fields, tensors = _parse(text, path)
        layers, _, _, tokens, _ = shape = tuple(tensors["kv"]["shape"])
        head = 4 * tokens + 32 * layers
        start = 8 + length + head + 32
        _require(start + tensors["kv"]["data_offsets"][1] - head - 32 == size, path, "its length is not its header's")
        data = file.read(head)
        digest = hashlib.sha256(length.to_bytes(8, "little") + text + data).digest()
        _require(file.read(32) == digest, path, "its header does not match its digest")
    token_ids = np.frombuffer(data, "<i4", tokens)
    return BlockKV(path, fields, token_ids, shape, start, data[4 * tokens :])


def _parse(text: bytes, path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        tensors = json.loads(text)
        fields: dict[str, str] = tensors.pop("__metadata__")
        _require((fields["format"], fields["version"]) == ("block-kv", VERSION), path, f"it is not version {VERSION}")
        unknown = set(fields.get("requires", "").split()) - _FIELDS
        _require(not unknown, path, f"{sorted(unknown)} must be read, and are not known")
        _require(fields.keys() >= _FIELDS - _OPTIONAL, path, "a field is missing")
        dtype, element = _DTYPES[fields["kv_type"]]
        shape = layers, two, _, tokens, _ = tensors["kv"]["shape"]
        _require(dtype != "U8" or shape[-1] % element.itemsize == 0, path, "its heads are not whole blocks of its type")
        _require(two == 2 and all(type(n) is int and n > 0 for n in shape), path, "its tensors are not a block's")
        sizes = {
            "tokens": ("I32", [tokens], 4 * tokens),
            "layer_digests": ("U8", [layers, 32], 32 * layers),
            "head_digest": ("U8", [32], 32),
            "kv": (dtype, shape, math.prod(shape) * (1 if dtype == "U8" else element.itemsize)),
        }
        expected, end = {}, 0
        for name, (kind, dims, num_bytes) in sizes.items():
            expected[name] = {"dtype": kind, "shape": dims, "data_offsets": [end, end + num_bytes]}
            end += num_bytes
        _require(tensors == expected, path, "its tensors are not a block's")
    except BlockFileError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BlockFileError(f"Cannot read {path}: it has no block's header") from error
    return fields, tensors


def _require(is_sound: bool, path: Path, otherwise: str) -> None:
    if not is_sound:
        raise BlockFileError(f"Cannot read {path}: {otherwise}")
