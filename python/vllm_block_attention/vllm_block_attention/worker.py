"""What a worker does: reads blocks beside the engine's loop, writes them into pages, and keeps new ones."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.logger import init_logger
from vllm.model_executor.layers.rotary_embedding import (
    _ROPE_DICT,
    LinearScalingRotaryEmbedding,
    Llama3RotaryEmbedding,
    RotaryEmbedding,
    YaRNScalingRotaryEmbedding,
)
from vllm.model_executor.models.utils import extract_layer_index

from .block_kv import PAIRS, BlockFileError, encode_block, open_block
from .config import KV_TYPES, Settings, made_by
from .metrics import BlockStats
from .pages import Pages, Rotation
from .requests import BlockRef
from .store import RamTier, open_store, place_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = init_logger("vllm.block_attention.worker")

_ROPES = (RotaryEmbedding, LinearScalingRotaryEmbedding, Llama3RotaryEmbedding, YaRNScalingRotaryEmbedding)


@dataclass(frozen=True)
class Load:
    """Blocks that a request's pages are to hold."""

    request_id: str
    pages: tuple[int, ...]
    first: int
    """Tokens that the pages hold already."""
    blocks: tuple[BlockRef, ...]
    refused: str | None = None
    """Why the request is to fail."""


@dataclass(frozen=True)
class Save:
    """A block that the first of these pages hold after this step."""

    pages: tuple[int, ...]
    block: BlockRef


@dataclass
class _Loading:
    load: Load
    blocks: list[tuple[BlockRef, "Future[tuple[torch.Tensor, str]]"]]
    started: float


class _MissingError(Exception):
    """There is no such block, or one that another program computed."""


class BlockWorker:
    """Owns the store, the RAM tier and the threads that read."""

    def __init__(self, config: "VllmConfig", kv_cache: "KVCacheConfig", settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._page_size = kv_cache.kv_cache_groups[0].kv_cache_spec.block_size
        self._group = get_tp_group()
        self._total_heads = config.model_config.get_total_num_kv_heads()
        self._made = made_by(config)
        self._store = open_store(settings.store, writes=self.is_first, made=place_of(**self._made))
        self._ram: RamTier[torch.Tensor] = RamTier(settings.ram)
        self._threads = ThreadPoolExecutor(max(1, settings.threads), "block-attention")
        self._hashers = ThreadPoolExecutor(max(1, settings.threads), "block-attention-hash")
        self._loading: list[_Loading] = []
        self._pages: Pages | None = None
        self._fields: dict[str, str] = {}
        self.stats = BlockStats()

    @property
    def is_first(self) -> bool:
        """Whether it is the one of its tensor-parallel group that counts and writes."""
        return bool(self._group.rank_in_group == 0)

    def register(self, caches: dict[str, torch.Tensor]) -> None:
        """Takes the pages. Raises ValueError for a model or backend that is not supported."""
        names = sorted(caches, key=extract_layer_index)
        layers = [self._config.compilation_config.static_forward_context[name] for name in names]
        for layer in layers:
            if (window := getattr(layer, "sliding_window", None)) is not None:
                raise ValueError(f"Cannot use Block-Attention: a layer has a sliding window of {window}, wanted none")
            if not hasattr(layer.impl, "do_kv_cache_update"):
                name = type(layer.impl).__name__
                raise ValueError(
                    f"Cannot use Block-Attention: {name} has no do_kv_cache_update, wanted a backend with it"
                )
        ropes = list(_ROPE_DICT.values())
        if len(ropes) != 1 or type(ropes[0]) not in _ROPES or not ropes[0].is_neox_style:
            kinds = ", ".join(sorted(f"{type(rope).__name__} of {_pairs(rope)}" for rope in ropes)) or "none"
            raise ValueError(
                f"Cannot use Block-Attention: the model's RoPEs are {kinds}, wanted one of a known kind, of halves"
            )
        rotation = Rotation(ropes[0].cos_sin_cache)
        self._pages = Pages(layers, [caches[name] for name in names], self._page_size, rotation)
        self._fields = {"kind": "block", "kv_type": KV_TYPES[self._config.model_config.dtype]}

    def start(self, loads: Sequence[Load], model: str) -> None:
        """Begins to read what requests want; `finish` tells when it is in their pages."""
        for load in loads:
            wanted = [block for block in load.blocks if block.start + len(block.token_ids) > load.first]
            if load.refused is not None:
                wanted = []
            blocks = [(block, self._threads.submit(self._fetch, block, model)) for block in wanted]
            self._loading.append(_Loading(load, blocks, time.monotonic()))

    def finish(self) -> tuple[set[str], set[str]]:
        """Requests whose loads ended, and those of them that failed. Pages are written here, by the engine's thread."""
        ended, failed, left = set(), set(), []
        for loading in self._loading:
            is_late = time.monotonic() - loading.started > self._settings.load_timeout_s
            if not is_late and not all(future.done() for _, future in loading.blocks):
                left.append(loading)
                continue
            request_id = loading.load.request_id
            ended.add(request_id)
            if not self._write(loading):
                failed.add(request_id)
        self._loading = left
        return ended, failed

    def _write(self, loading: _Loading) -> bool:
        load, fetched = loading.load, []
        if load.refused is not None:
            self.stats.count("requests_refused")
            logger.error("Refused request %s: %s", load.request_id, load.refused)
            return False
        for block, future in loading.blocks:
            try:
                # Those that are late raise TimeoutError.
                kv, source = future.result(timeout=0)
            except Exception as error:
                future.cancel()
                if isinstance(error, BlockFileError):
                    self.stats.count("blocks_damaged")
                elif isinstance(error, _MissingError):
                    self.stats.count("blocks_missing")
                self.stats.count("loads_failed")
                reason = str(error) or f"it took longer than {self._settings.load_timeout_s} s"
                logger.error("Failed request %s: block %s: %s", load.request_id, block.id, reason)
                for _, other in loading.blocks:
                    other.cancel()
                return False
            self.stats.count(f"blocks_from_{source}")
            fetched.append((block, kv))
        assert self._pages is not None
        for block, kv in fetched:
            skipped = max(0, load.first - block.start)
            self._pages.write(load.pages, block.start + skipped, kv[:, :, :, skipped:])
            self.stats.count("tokens_loaded", kv.shape[3] - skipped)
        self.stats.count("load_seconds", time.monotonic() - loading.started)
        return True

    def _fetch(self, block: BlockRef, model: str) -> tuple[torch.Tensor, str]:
        """Own heads of a block, [L, 2, H, T, D], and where it was. On a thread."""
        kept = self._ram.get(block.id)
        if kept is not None:
            return kept, "ram"
        data = self._store.read(block.id)
        if data is None:
            raise _MissingError("it is not in the store")
        assert self._pages is not None
        layers = self._pages.num_layers
        shape = (layers, 2, self._total_heads, len(block.token_ids), self._pages.head_size)
        first, count = self._own_heads()
        try:
            found = open_block(data, block.id)
            mine = {**self._fields, "id": block.id, "owner": block.owner, "model": model, "context": None}
            found.require(shape, block.token_ids, mine)
            others = {"pairs": PAIRS, **({} if self._settings.any_producer else self._made)}
            for name, wanted in others.items():
                if found.fields[name] != wanted:
                    raise _MissingError(f'its {name} is "{found.fields[name]}", wanted "{wanted}"')
            kv = torch.empty((layers, 2, count, *shape[3:]), dtype=self._config.model_config.dtype)
            for index in range(layers):
                # bfloat16 is bits to numpy.
                kv[index] = _as_torch(found.layer(index)[:, first : first + count], kv.dtype)
        except BlockFileError:
            self._store.set_aside(block.id)
            raise
        self._ram.put(block.id, kv, kv.nbytes)
        return kv, "store"

    def save(self, saves: Sequence[Save], model: str) -> None:
        """Keeps blocks that were computed, in RAM and in the store. Returns once they are safe there."""
        for save in saves:
            assert self._pages is not None
            block = save.block
            own = self._pages.read(save.pages, len(block.token_ids)).to(self._config.model_config.dtype).cpu()
            self._ram.put(block.id, own, own.nbytes)
            # Where there are more workers than heads, several have the same one.
            every = max(1, self._group.world_size // self._total_heads)
            kv = self._group.all_gather(own, dim=2)[:, :, ::every] if self._group.world_size > 1 else own
            if not self.is_first:
                continue
            fields = {
                "kind": "block",
                "id": block.id,
                "model": model,
                "owner": block.owner,
                "pairs": PAIRS,
                **self._fields,
                **self._made,
            }
            try:
                data = encode_block(_as_numpy(kv), block.token_ids, fields, self._hashers)
                self._store.write(block.id, data)
                self.stats.count("blocks_saved")
            except OSError as error:
                self.stats.count("blocks_not_saved")
                logger.error("Block %s is in RAM alone: %s", block.id, error)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._hashers.shutdown(wait=False)
        self._store.close()

    def _own_heads(self) -> tuple[int, int]:
        """The first of this worker's heads among all, and how many it has."""
        assert self._pages is not None
        size, rank = self._group.world_size, self._group.rank_in_group
        count = self._pages.num_heads
        return (rank * count if self._total_heads >= size else rank * self._total_heads // size), count


def _pairs(rope: RotaryEmbedding) -> str:
    return "halves" if rope.is_neox_style else "neighbours"


def _as_torch(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.array(values).view(np.int16)).view(dtype)
    return torch.from_numpy(np.array(values))


def _as_numpy(values: torch.Tensor) -> np.ndarray:
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.int16).numpy().view(np.uint16)
    return values.contiguous().numpy()
