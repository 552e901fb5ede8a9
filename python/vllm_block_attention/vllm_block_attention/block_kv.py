"""Reads and writes the files in which block KV rest, and names them: docs/block-kv-format.md. Needs numpy alone."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

VERSION = "2"
# Which elements of a key RoPE turns together: as Transformers and vLLM have them.
PAIRS = "half"
MAX_HEADER_BYTES = 1 << 20
ALIGNMENT = 64
# numpy has no bfloat16: its bits are given as they are.
_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "f16": ("F16", np.dtype("<f2")),
    "bf16": ("BF16", np.dtype("<u2")),
    "f32": ("F32", np.dtype("<f4")),
    # 32 elements with one scale; safetensors has no such types. They are read, not written.
    "q8_0": ("U8", np.dtype([("scale", "<f2"), ("codes", "i1", 32)])),
    "q4_0": ("U8", np.dtype([("scale", "<f2"), ("codes", "u1", 16)])),
}
_FIELDS = {"kind", "id", "context", "model", "owner", "kv_type", "pairs", "producer", "compute", "documents"}
_OPTIONAL = {"context", "documents"}


class BlockFileError(ValueError):
    """A file that is not a sound block's, or another block's: an engine takes it for a miss."""


def hash_fields(domain: str, *fields: str | bytes) -> str:
    """SHA-256 over fields, each with its kind and length before it. 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for value in (domain, *fields):
        data = value.encode("utf-16-le", "surrogatepass") if isinstance(value, str) else value
        digest.update(bytes([1 if isinstance(value, str) else 2]) + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def block_id(model: str, kv_type: str, salt: str, token_ids: Sequence[int], context: str | None = None) -> str:
    """The name of all that a block's keys and values depend on."""
    tokens = np.asarray(token_ids, "<u4").tobytes()
    version = int(VERSION).to_bytes(4, "little")
    seen = [] if context is None else [context]
    return hash_fields("block-attention block id", model, kv_type, version, salt, tokens, *seen)


def owner_name(salt: str) -> str:
    """Names who may read a block where others see it: the salt itself may be secret."""
    return hash_fields("block-attention owner", salt)


@dataclass
class BlockKV:
    """A block's file, its head checked. Keys of a block are those before RoPE, a page's are turned to its place."""

    name: str
    """For errors: where it was read."""
    fields: dict[str, str]
    """The header's metadata, what is not known of it too."""
    token_ids: np.ndarray[Any, np.dtype[np.int32]]
    shape: tuple[int, int, int, int, int]
    """[layers, 2, KV heads, tokens, head size], as the tensor has it: of types in blocks the last one is in bytes."""
    start: int
    layer_digests: bytes
    read: Callable[[int, int], bytes | memoryview] = field(repr=False)
    """Bytes of the file: from where, how many."""

    def layer(self, index: int) -> Array:
        """Keys and values of a layer, [2, KV heads, tokens, head size]; q8_0 and q4_0 as float32.

        Raises BlockFileError for another digest.
        """
        name, dtype = _DTYPES[self.fields["kv_type"]]
        size = math.prod(self.shape[1:]) * _element_bytes(name, dtype)
        data = self.read(self.start + index * size, size)
        if hashlib.sha256(data).digest() != self.layer_digests[32 * index : 32 * index + 32]:
            raise BlockFileError(f"Cannot read {self.name}: layer {index} does not match its digest")
        elements = np.frombuffer(data, dtype)
        if name == "U8":
            codes = elements["codes"].astype(np.int16)
            if self.fields["kv_type"] == "q4_0":
                # The low halves of the bytes are elements 0 to 15, the high ones 16 to 31.
                codes = np.concatenate([codes & 15, codes >> 4], axis=-1) - 8
            elements = codes * elements["scale"].astype(np.float32)[:, None]
        return elements.reshape(*self.shape[1:4], -1)

    def require(self, shape: Sequence[int], token_ids: Sequence[int], fields: Mapping[str, str | None]) -> None:
        """Checks that it is the block that was asked for. Raises BlockFileError that names the first difference.

        `fields` are those of the header; a value of None wants the field to be absent.
        """
        for name, wanted in fields.items():
            found = self.fields.get(name)
            _require(found == wanted, self.name, f'its {name} is "{found}", wanted "{wanted}"')
        _require(self.shape == tuple(shape), self.name, f"its shape is {self.shape}, wanted {tuple(shape)}")
        is_same = np.array_equal(self.token_ids, np.asarray(token_ids, "<i4"))
        _require(is_same, self.name, "its tokens are others")


def open_block(source: str | Path | bytes, name: str = "a block") -> BlockKV:
    """Checks a file, or its bytes, as far as its keys and values. Raises BlockFileError if it is unsound."""
    if isinstance(source, bytes):
        view = memoryview(source)
        size = len(view)

        def read(start: int, count: int) -> bytes | memoryview:
            return view[start : start + count]
    else:
        path = Path(source)
        name, size = str(path), path.stat().st_size

        def read(start: int, count: int) -> bytes | memoryview:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(count)

    length = int.from_bytes(read(0, 8), "little")
    _require(size >= 8 and length <= min(MAX_HEADER_BYTES, size - 8), name, "it does not start as one does")
    text = bytes(read(8, length))
    fields, tensors = _parse(text, name)
    layers, _, _, tokens, _ = shape = tuple(tensors["kv"]["shape"])
    head = 4 * tokens + 32 * layers
    start = 8 + length + head + 32
    _require(start + tensors["kv"]["data_offsets"][1] - head - 32 == size, name, "its length is not its header's")
    data = bytes(read(8 + length, head + 32))
    digest = hashlib.sha256(length.to_bytes(8, "little") + text + data[:head]).digest()
    _require(data[head:] == digest, name, "its header does not match its digest")
    token_ids = np.frombuffer(data, "<i4", tokens)
    return BlockKV(name, fields, token_ids, shape, start, data[4 * tokens : head], read)


def encode_block(kv: Array, token_ids: Sequence[int], fields: Mapping[str, str], threads: ThreadPoolExecutor) -> bytes:
    """The bytes of a block's file.

    `kv` is [layers, 2, KV heads, tokens, head size], of bfloat16 its bits; `fields` are those of the header, `kv_type`
    among them. Layers are hashed by the threads, one each.
    """
    dtype = _DTYPES[fields["kv_type"]][1]
    layers = [np.ascontiguousarray(layer, dtype) for layer in kv]
    digests = b"".join(threads.map(lambda layer: hashlib.sha256(layer).digest(), layers))
    tensors = _tensors(fields["kv_type"], list(kv.shape))
    metadata = {"format": "block-kv", "version": VERSION, **fields}
    text = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text) + tensors["kv"]["data_offsets"][0]) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise BlockFileError(
            f"Cannot write a block: its header has {len(text)} bytes, wanted at most {MAX_HEADER_BYTES}"
        )
    head = len(text).to_bytes(8, "little") + text + np.asarray(token_ids, "<i4").tobytes() + digests
    return b"".join([head, hashlib.sha256(head).digest(), *(layer.data for layer in layers)])


def _element_bytes(name: str, dtype: np.dtype[Any]) -> int:
    """Of types in blocks the tensor's elements are bytes."""
    return 1 if name == "U8" else dtype.itemsize


def _tensors(kv_type: str, shape: list[int]) -> dict[str, Any]:
    """The tensors of a block's file by name, as safetensors has them."""
    layers, _, _, tokens, _ = shape
    dtype, element = _DTYPES[kv_type]
    sizes = {
        "tokens": ("I32", [tokens], 4 * tokens),
        "layer_digests": ("U8", [layers, 32], 32 * layers),
        "head_digest": ("U8", [32], 32),
        "kv": (dtype, shape, math.prod(shape) * _element_bytes(dtype, element)),
    }
    tensors, end = {}, 0
    for name, (kind, dims, num_bytes) in sizes.items():
        tensors[name] = {"dtype": kind, "shape": dims, "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    return tensors


def _parse(text: bytes, name: str) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        tensors = json.loads(text)
        fields: dict[str, str] = tensors.pop("__metadata__")
        _require((fields["format"], fields["version"]) == ("block-kv", VERSION), name, f"it is not version {VERSION}")
        unknown = set(fields.get("requires", "").split()) - _FIELDS
        _require(not unknown, name, f"{sorted(unknown)} must be read, and are not known")
        _require(fields.keys() >= _FIELDS - _OPTIONAL, name, "a field is missing")
        _, two, *_ = shape = tensors["kv"]["shape"]
        _require(two == 2 and all(type(n) is int and n > 0 for n in shape), name, "its tensors are not a block's")
        _require(tensors == _tensors(fields["kv_type"], shape), name, "its tensors are not a block's")
        dtype, element = _DTYPES[fields["kv_type"]]
        _require(dtype != "U8" or shape[-1] % element.itemsize == 0, name, "its heads are not whole blocks of its type")
    except BlockFileError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BlockFileError(f"Cannot read {name}: it has no block's header") from error
    return fields, tensors


def _require(is_sound: bool, name: str, otherwise: str) -> None:
    if not is_sound:
        raise BlockFileError(f"Cannot read {name}: {otherwise}")
