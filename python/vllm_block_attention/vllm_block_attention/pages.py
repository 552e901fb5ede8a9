"""vLLM's pages of keys and values: written and read by place, whatever order a backend packs them in.

L layers, H KV heads of this worker, T tokens, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch

# Whole numbers up to it are exact in bfloat16.
_DIGIT = 128


class Rotation:
    """RoPE by the model's own table of cosines and sines, in float32, forth and back."""

    def __init__(self, table: torch.Tensor) -> None:
        """`table` is [places, R]: R/2 cosines, then R/2 sines. Pairs are (i, i + R/2)."""
        self._table = table

    def turn(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Keys before RoPE [..., T, D] at their places [T], in float32."""
        return self._apply(keys, positions, back=False)

    def turn_back(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The keys that `turn` turned. The table may be rounded, or have a factor: its pairs are of no length 1."""
        return self._apply(keys, positions, back=True)

    def _apply(self, keys: torch.Tensor, positions: torch.Tensor, *, back: bool) -> torch.Tensor:
        keys = keys.float()
        cos, sin = self._table[positions].float().to(keys.device).chunk(2, dim=-1)
        if back:
            length = cos * cos + sin * sin
            cos, sin = cos / length, -sin / length
        turned, rest = keys[..., : 2 * cos.shape[-1]], keys[..., 2 * cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


class Pages:
    """The pages of all attention layers of a worker."""

    def __init__(
        self, layers: Sequence[Any], caches: Sequence[torch.Tensor], page_size: int, rotation: Rotation
    ) -> None:
        """`layers` are vLLM's attention layers, in order, `caches` theirs, [pages, …]; `page_size` is in tokens.

        Raises ValueError for a backend whose pages cannot be read.
        """
        self._layers = layers
        self._caches = caches
        self._page_size = page_size
        self._rotation = rotation
        self.num_layers = len(layers)
        self.num_heads = int(layers[0].num_kv_heads)
        self.head_size = int(layers[0].head_size)
        self.dtype = caches[0].dtype
        # A page of the kernels may be a part of one of the scheduler's: both number the same rows.
        self._rows = caches[0][0].numel() // (2 * self.num_heads * self.head_size)
        self._places = self._find_places()

    def write(self, pages: Sequence[int], first: int, kv: torch.Tensor) -> None:
        """Writes keys before RoPE and values, [L, 2, H, T, D], at positions `first` and on of whoever has the pages."""
        positions = torch.arange(first, first + kv.shape[3])
        slots = self._slots(pages, positions)
        keys = self._rotation.turn(kv[:, 0].to(slots.device), positions.to(slots.device)).to(self.dtype)
        values = kv[:, 1].to(slots.device, self.dtype)
        for layer, cache, key, value in zip(self._layers, self._caches, keys, values, strict=True):
            # [T, H, D], as attention has them.
            rows = [rows.transpose(0, 1).contiguous() for rows in (key, value)]
            layer.impl.do_kv_cache_update(layer, *rows, cache, slots)

    def read(self, pages: Sequence[int], num_tokens: int) -> torch.Tensor:
        """Keys before RoPE and values of the first tokens of whoever has the pages: [L, 2, H, T, D], in float32."""
        positions = torch.arange(num_tokens)
        slots = self._slots(pages, positions)
        numbers, which = torch.unique_consecutive(slots // self._rows, return_inverse=True)
        rows = slots % self._rows
        found = []
        for cache in self._caches:
            flat = cache[numbers].reshape(len(numbers), -1)
            # [T, 2, H, D]
            found.append(flat[which[:, None, None, None], self._places[:, rows].transpose(0, 1)].float())
        kv = torch.stack(found).permute(0, 2, 3, 1, 4).contiguous()
        kv[:, 0] = self._rotation.turn_back(kv[:, 0], positions.to(kv.device))
        return kv

    def _slots(self, pages: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        numbers = torch.tensor(pages, dtype=torch.int64)[positions // self._page_size]
        return (numbers * self._page_size + positions % self._page_size).to(self._caches[0].device)

    def _find_places(self) -> torch.Tensor:
        """Where a page has each number: [2, rows, H, D], from keys and values that are numbered."""
        shape = (2, self._rows, self.num_heads, self.head_size)
        cache = self._caches[0]
        page = torch.zeros((1, *cache.shape[1:]), dtype=cache.dtype, device=cache.device)
        numbers = torch.arange(page.numel(), device=cache.device)
        found = torch.zeros_like(numbers)
        slots = torch.arange(self._rows, device=cache.device)
        for power in (1, _DIGIT, _DIGIT**2, _DIGIT**3):
            key, value = ((numbers // power) % _DIGIT).reshape(shape).to(cache.dtype)
            self._layers[0].impl.do_kv_cache_update(self._layers[0], key, value, page, slots)
            found += page.flatten().to(torch.int64) * power
        places = torch.argsort(found)
        if not torch.equal(found[places], numbers):
            name = type(self._layers[0].impl).__name__
            raise ValueError(f"Cannot use Block-Attention: pages of {name} cannot be read, each number wants one place")
        return places.reshape(shape)
