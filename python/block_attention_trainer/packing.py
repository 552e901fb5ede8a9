"""Which samples stand in which row: an order and a packing that depend on the index, the seed and the epoch alone.

So a run resumes by planning again and passing over the rows that it has seen; no data is read for those.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from .layout import MODES, Mode
from .samples import SampleIndex


class Item(NamedTuple):
    """What is never divided: samples of the index in one mode, several only where they share a context."""

    mode: Mode
    samples: tuple[int, ...]
    num_tokens: int


Row = tuple[Item, ...]


@dataclass(frozen=True)
class PackingOptions:
    modes: tuple[Mode, ...]
    num_opening: dict[Mode, int]
    tokens_per_row: int | None
    """The most tokens of a row; None gives each sample, in each mode, a row of its own."""
    share_contexts: bool
    open_rows: int
    """How many rows are filled at a time; the fullest is closed when something fits into none."""
    shuffled_row_groups: int
    """How many row groups are shuffled together, and so how much data is in memory."""


def plan_rows(index: SampleIndex, options: PackingOptions, seed: int | None, epoch: int = 0) -> Iterator[Row]:
    """The rows of an epoch, in order. Without a seed, samples stay in the files' order, for evaluation."""
    random = None if seed is None else np.random.default_rng([seed, epoch])
    row_groups = np.unique(index.row_group)
    if random is not None:
        random.shuffle(row_groups)
    open_rows: list[tuple[int, list[Item]]] = []
    for first in range(0, len(row_groups), options.shuffled_row_groups):
        items = _items(index, row_groups[first : first + options.shuffled_row_groups], options)
        if random is not None:
            items = [items[i] for i in random.permutation(len(items))]
        for item in items:
            if options.tokens_per_row is None:
                yield (item,)
                continue
            place = next((i for i, row in enumerate(open_rows) if row[0] >= item.num_tokens), None)
            if place is None:
                if len(open_rows) == options.open_rows:
                    fullest = min(range(len(open_rows)), key=lambda i: open_rows[i][0])
                    yield tuple(open_rows.pop(fullest)[1])
                open_rows.append((options.tokens_per_row - item.num_tokens, [item]))
            else:
                room, filled = open_rows[place]
                filled.append(item)
                open_rows[place] = (room - item.num_tokens, filled)
    for _, filled in open_rows:
        yield tuple(filled)


def plan_stream(index: SampleIndex, options: PackingOptions, seed: int, first_row: int) -> Iterator[Row]:
    """The rows of epoch after epoch without end, from the given one on."""

    def endless() -> Iterator[Row]:
        epoch = 0
        while True:
            yield from plan_rows(index, options, seed, epoch)
            epoch += 1

    return islice(endless(), first_row, None)


def count_rows(index: SampleIndex, options: PackingOptions, seed: int, epochs: float) -> int:
    """Rows of so many epochs; of a part of one, that part of its rows."""
    whole = int(epochs)
    rows = sum(sum(1 for _ in plan_rows(index, options, seed, epoch)) for epoch in range(whole))
    if epochs > whole:
        rows += round((epochs - whole) * sum(1 for _ in plan_rows(index, options, seed, whole)))
    return rows


def _items(
    index: SampleIndex, row_groups: np.ndarray[tuple[int], np.dtype[np.int32]], options: PackingOptions
) -> list[Item]:
    items: list[Item] = []
    chosen = np.flatnonzero(np.isin(index.row_group, row_groups))
    shares = options.share_contexts and options.tokens_per_row is not None
    for mode in options.modes:
        bit = 1 << MODES.index(mode)
        opening = options.num_opening[mode]
        together: dict[tuple[int, int], list[int]] = {}
        for i in chosen[(index.modes[chosen] & bit) != 0].tolist():
            if shares and index.group[i] >= 0 and index.num_context[i] > 0:
                together.setdefault((int(index.row_group[i]), int(index.group[i])), []).append(i)
            else:
                items.append(Item(mode, (i,), opening + int(index.num_context[i] + index.num_final[i])))
        for samples in together.values():
            items.extend(_share(index, mode, opening, samples, options.tokens_per_row))
    return items


def _share(
    index: SampleIndex, mode: Mode, opening: int, samples: list[int], tokens_per_row: int | None
) -> Iterator[Item]:
    """Questions over one context, as many together as a row takes."""
    context = opening + int(index.num_context[samples[0]])
    taken: list[int] = []
    length = context
    for i in samples:
        final = int(index.num_final[i])
        if taken and tokens_per_row is not None and length + final > tokens_per_row:
            yield Item(mode, tuple(taken), length)
            taken, length = [], context
        taken.append(i)
        length += final
    yield Item(mode, tuple(taken), length)
