"""What a request asks of the connector, and what it is told: `kv_transfer_params` of one HTTP request.

    {"block_attention": {"encode": true}}        the prompt is one block: encode it alone and keep it
    {"block_attention": {"blocks": [57, 61]}}    the prompt begins with blocks of so many tokens

Both may have "salt", text that keeps tenants apart. Without "block_attention" a request is vLLM's own: full attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .block_kv import block_id, owner_name

KEY = "block_attention"


class RefusedError(ValueError):
    """Why a request cannot be served, in one line."""


@dataclass(frozen=True)
class Naming:
    """What the ids of all blocks of a model have in common."""

    model: str
    """The model's identity."""
    kv_type: str


@dataclass(frozen=True)
class BlockRef:
    """A block, and where it stands in a prompt."""

    id: str
    owner: str
    start: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A checked request."""

    encodes: bool
    blocks: tuple[BlockRef, ...]
    """To be encoded: the whole prompt. To be answered: all but the final block."""

    @property
    def num_tokens(self) -> int:
        return sum(len(block.token_ids) for block in self.blocks)

    @property
    def cache_salt(self) -> str | None:
        """Tells vLLM's prefix cache apart pages of other lengths of blocks, or of another tenant."""
        if self.encodes:
            return None
        lengths = ",".join(str(len(block.token_ids)) for block in self.blocks)
        return f"{KEY} {self.blocks[0].owner if self.blocks else ''} {lengths}"


def plan(params: dict[str, Any] | None, token_ids: Sequence[int] | None, naming: Naming) -> Plan | None:
    """Checks what a request asks for; None where it asks for nothing. Raises RefusedError."""
    if not params or KEY not in params:
        return None
    asked = params[KEY]
    if not isinstance(asked, dict):
        raise RefusedError(f'"{KEY}" is {_kind(asked)}, wanted an object')
    if unknown := sorted(asked.keys() - {"encode", "blocks", "salt"}):
        raise RefusedError(f'"{KEY}" has "{unknown[0]}", wanted "encode" or "blocks", and "salt"')
    if token_ids is None:
        raise RefusedError("the prompt has embeddings, wanted token ids")
    salt = asked.get("salt", "")
    if not isinstance(salt, str):
        raise RefusedError(f'"salt" is {_kind(salt)}, wanted text')
    encodes, lengths = asked.get("encode", False), asked.get("blocks")
    if encodes not in (True, False) or encodes == (lengths is not None):
        raise RefusedError('wanted either "encode": true or "blocks"')
    if encodes:
        lengths = [len(token_ids)]
    elif not isinstance(lengths, list) or not all(type(length) is int and length > 0 for length in lengths):
        raise RefusedError('"blocks" is no list of lengths, wanted tokens of each block, 1 or more')
    elif sum(lengths) >= len(token_ids):
        raise RefusedError(
            f"blocks have {sum(lengths)} tokens of the prompt's {len(token_ids)}, wanted 1 or more for the final block"
        )
    owner, blocks, start = owner_name(salt), [], 0
    for length in lengths:
        ids = tuple(token_ids[start : start + length])
        blocks.append(BlockRef(block_id(naming.model, naming.kv_type, salt, ids), owner, start, ids))
        start += length
    return Plan(encodes, tuple(blocks))


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), repr(value)[:40])
