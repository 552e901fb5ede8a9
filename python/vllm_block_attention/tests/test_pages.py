"""Pages of a backend that packs them in an order of its own."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vllm_block_attention.pages import Pages, Rotation  # noqa: E402

LAYERS, HEADS, ROWS, SIZE = 2, 3, 8, 4


class Backend:
    """Writes values first, keys transposed, both backwards."""

    def do_kv_cache_update(self, _layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        for slot, k, v in zip(slots.tolist(), key, value, strict=True):
            page = cache[slot // ROWS].view(2, HEADS, SIZE, ROWS).flip(3)
            page[0, :, :, slot % ROWS] = v
            page[1, :, :, slot % ROWS] = k
            cache[slot // ROWS] = page.flip(3).view(cache.shape[1:])


def rotation(factor: float = 1.0) -> Rotation:
    angles = torch.outer(torch.arange(64.0), torch.tensor([1.0, 0.1]))
    return Rotation(factor * torch.cat((angles.cos(), angles.sin()), dim=1))


def pages(dtype: Any, page_size: int) -> tuple[Pages, list[Any]]:
    layers = [SimpleNamespace(impl=Backend(), num_kv_heads=HEADS, head_size=SIZE) for _ in range(LAYERS)]
    caches = [torch.zeros((12, HEADS, ROWS, 2 * SIZE), dtype=dtype) for _ in layers]
    return Pages(layers, caches, page_size, rotation()), caches


# A page of the scheduler's may be two of the kernels'.
@pytest.mark.parametrize("page_size", [ROWS, 2 * ROWS])
def test_pages_read_what_was_written(page_size: int) -> None:
    own, caches = pages(torch.float32, page_size)
    kv = torch.randn(LAYERS, 2, HEADS, 19, SIZE, generator=torch.Generator().manual_seed(1))
    numbers = [3, 1, 5][: -(-19 // page_size)]
    own.write(numbers, 0, kv[:, :, :, :13])
    own.write(numbers, 13, kv[:, :, :, 13:])
    torch.testing.assert_close(own.read(numbers, 19), kv, atol=1e-6, rtol=0)
    # Turned to its place: row 0 of the second page, whose keys the backend has backwards.
    stored = caches[1][1].view(2, HEADS, SIZE, ROWS) if page_size == ROWS else caches[1][2].view(2, HEADS, SIZE, ROWS)
    turned = rotation().turn(kv[1, 0], torch.arange(19))[:, page_size]
    torch.testing.assert_close(stored[1, :, :, ROWS - 1], turned)


def test_pages_refuse_a_backend_that_keeps_no_number() -> None:
    class Lossy(Backend):
        def do_kv_cache_update(self, _layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
            super().do_kv_cache_update(_layer, key, value * 0, cache, slots)

    layer = SimpleNamespace(impl=Lossy(), num_kv_heads=HEADS, head_size=SIZE)
    with pytest.raises(ValueError, match="pages of Lossy cannot be read"):
        Pages([layer], [torch.zeros((2, HEADS, ROWS, 2 * SIZE))], ROWS, rotation())


def test_rotation_turns_as_the_formula_says_and_back() -> None:
    keys = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    own = rotation(factor=1.25)
    turned = own.turn(keys, torch.tensor([7]))
    for pair, angle in [((0, 2), 7.0), ((1, 3), 0.7)]:
        number = 1.25 * torch.complex(keys[0, pair[0]], keys[0, pair[1]]) * torch.exp(torch.tensor(1j * angle))
        torch.testing.assert_close(turned[0, list(pair)], torch.stack((number.real, number.imag)))
    assert turned[0, 4] == 5.0
    torch.testing.assert_close(own.turn_back(turned, torch.tensor([7])), keys)
