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
    draw: float = 1.0
    """From 0 to 1, not 1 itself: what block dropout goes by; 1 where nothing was drawn."""


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
    full_share: float | None = None
    """Where samples are of both modes: the share of contexts that an epoch has in full mode, the others being in block
    mode. None: each is in both."""
    front_length: int = 0
    """Tokens that stand before each local block but block 0 in block mode: lead-in and sinks."""


def plan_rows(index: SampleIndex, options: PackingOptions, seed: int | None, epoch: int = 0) -> Iterator[Row]:
    """The rows of an epoch, in order. Without a seed, samples stay in the files' order, for evaluation."""
    random = None if seed is None else np.random.default_rng([seed, epoch])
    draws = None if seed is None else np.random.default_rng([seed, epoch, 1])
    row_groups = np.unique(index.row_group)
    if random is not None:
        random.shuffle(row_groups)
    open_rows: list[tuple[int, list[Item]]] = []
    for first in range(0, len(row_groups), options.shuffled_row_groups):
        items = _items(index, row_groups[first : first + options.shuffled_row_groups], options, draws)
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
    index: SampleIndex,
    row_groups: np.ndarray[tuple[int], np.dtype[np.int32]],
    options: PackingOptions,
    draws: np.random.Generator | None,
) -> list[Item]:
    """`draws` decides modes and block dropout, and none of the order."""
    items: list[Item] = []
    chosen = np.flatnonzero(np.isin(index.row_group, row_groups))
    shares = options.share_contexts and options.tokens_per_row is not None
    contexts: dict[tuple[int, ...], list[int]] = {}
    for i in chosen.tolist():
        is_shared = shares and index.group[i] >= 0 and index.num_context[i] > 0
        key: tuple[int, ...] = (int(index.row_group[i]), int(index.group[i])) if is_shared else (i,)
        contexts.setdefault(key, []).append(i)
    drawn = {} if draws is None else {key: draws.random() for key in contexts}
    for mode in options.modes:
        # Samples with a context of their own stand first.
        for key, together in sorted(contexts.items(), key=lambda context: len(context[0])):
            samples = [i for i in together if _is_of(mode, int(index.modes[i]), options.full_share, drawn.get(key))]
            if samples:
                items.extend(_share(index, mode, options, samples))
    return items if draws is None else [item._replace(draw=draws.random()) for item in items]


def _is_of(mode: Mode, bits: int, full_share: float | None, drawn: float | None) -> bool:
    """Whether a sample of the modes `bits` is learned in a mode."""
    if bits & (1 << MODES.index(mode)) == 0:
        return False
    if full_share is None or drawn is None or bits != (1 << len(MODES)) - 1:
        return True
    return (drawn < full_share) == (mode == "full")


def _share(index: SampleIndex, mode: Mode, options: PackingOptions, samples: list[int]) -> Iterator[Item]:
    """Questions over one context, as many together as a row takes."""
    tokens_per_row = options.tokens_per_row
    context = options.num_opening[mode] + int(index.num_context[samples[0]])
    if mode == "block":
        context += options.front_length * int(index.num_fronted[samples[0]])
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
