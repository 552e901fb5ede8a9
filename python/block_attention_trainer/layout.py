"""What sees what in a row of tokens: the one representation that every attention path and the loss are made from.

A token belongs to a sample, and within it to a segment. Query q sees key k if and only if both are of one sample, k
stands at or before q in the row, and k is in q's segment, or q's segment is not local and k's is not final. In block
mode each span of the prompt is a segment: a local one sees itself, a global one all before it, and the last one, with
the response, is final (arXiv:2409.15355v5, section 2, is the case without global ones). In full mode a sample is one
final segment. Questions that share a context are several final segments after it, which do not see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Mode = Literal["block", "full"]
MODES: tuple[Mode, ...] = ("block", "full")

PADDING = -1
"""Sample and segment of a token that only fills a row. Such tokens see each other, so no softmax is over nothing."""


class Kind(IntEnum):
    """What a segment sees besides itself: a local one nothing, the others all before them that is not final."""

    LOCAL = 0
    GLOBAL = 1
    FINAL = 2


class Segment(NamedTuple):
    """A run of tokens of one sample that attends causally within itself."""

    length: int
    kind: Kind
    first_position: int


def shared_context(
    num_opening: int,
    context_lengths: Sequence[int],
    final_lengths: Sequence[int],
    mode: Mode,
    *,
    is_global: Sequence[bool] | None = None,
    reencodes: bool = True,
) -> list[Segment]:
    """Segments of several questions over one context; one question is the common case.

    `num_opening` counts BOS and prefix: they belong to block 0, which is the final block where there is no other.
    `is_global` says which spans of the context see all before them, default none. `final_lengths` count each final
    block with its response. Each question's positions go on where the context ends. Without `reencodes`, the positions
    of each local block start at 0 (the paper's ablation of position re-encoding).

    Raises ValueError for a final block without tokens, or for several questions without a context.

    >>> shared_context(1, [2], [3], "block")
    [Segment(length=3, kind=Kind.LOCAL, first_position=0), Segment(length=3, kind=Kind.FINAL, first_position=3)]
    """
    if not final_lengths or min(final_lengths) < 1:
        raise ValueError("Cannot lay out a sample: its final block has no tokens")
    if not context_lengths:
        if len(final_lengths) > 1:
            raise ValueError(f"Cannot lay out {len(final_lengths)} questions: they share no context")
        return [Segment(num_opening + final_lengths[0], Kind.FINAL, 0)]
    blocks = [num_opening + context_lengths[0], *context_lengths[1:]]
    context = sum(blocks)
    if mode == "full":
        if len(final_lengths) == 1:
            return [Segment(context + final_lengths[0], Kind.FINAL, 0)]
        blocks, is_global = [context], [True]
    segments: list[Segment] = []
    position = 0
    for length, sees_all in zip(blocks, is_global or [False] * len(blocks), strict=True):
        if length > 0:
            kind = Kind.GLOBAL if sees_all else Kind.LOCAL
            segments.append(Segment(length, kind, position if reencodes or sees_all else 0))
        position += length
    return segments + [Segment(length, Kind.FINAL, context) for length in final_lengths]


class CausalBucket(NamedTuple):
    """Segments of about one length that see themselves alone: the rows of one padded, causal call."""

    num_segments: int
    length: int


class ContextCall(NamedTuple):
    """A global segment, or the final ones of a sample, over all that stands before it: no mask, all keys are seen."""

    first_key: int
    num_keys: int
    num_queries: int


@dataclass(frozen=True)
class SegmentPlan:
    """How the `segments` path computes a batch: indices into its tokens, rows laid one after another.

    Every segment attends causally to itself, in a bucket; those that are not local attend to what they see before them
    besides, in a call.
    `index` lists the tokens of all buckets, padded; `place` says where each token stands in it.
    """

    buckets: tuple[CausalBucket, ...]
    calls: tuple[ContextCall, ...]
    index: Tensor
    place: Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """A batch of rows, [B rows, T tokens] each. Passed to the model beside its inputs, as the keyword `layout`."""

    sample: Tensor
    segment: Tensor
    kind: Tensor
    position: Tensor

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Sequence[Segment]]], multiple: int = 1) -> Self:
        """Lays out rows of samples of segments; shorter rows are filled up to the longest, and that to a multiple."""
        longest = max((sum(s.length for sample in row for s in sample) for row in rows), default=0)
        shape = (len(rows), max(multiple, -(-longest // multiple) * multiple))
        sample = np.full(shape, PADDING, np.int32)
        segment = np.full(shape, PADDING, np.int32)
        kind = np.full(shape, Kind.LOCAL, np.int8)
        position = np.zeros(shape, np.int64)
        for b, row in enumerate(rows):
            start = number = 0
            for s, segments in enumerate(row):
                for length, of_segment, first in segments:
                    end = start + length
                    sample[b, start:end] = s
                    segment[b, start:end] = number
                    kind[b, start:end] = of_segment
                    position[b, start:end] = np.arange(first, first + length)
                    start, number = end, number + 1
            position[b, start:] = np.arange(shape[1] - start)
        return cls(*(torch.from_numpy(x) for x in (sample, segment, kind, position)))

    @property
    def shape(self) -> torch.Size:
        return self.sample.shape

    def to(self, device: torch.device | str) -> "Layout":
        """The same on a device; what was made from it is made anew there."""
        if torch.device(device) == self.sample.device:
            return self
        return Layout(*(x.to(device) for x in (self.sample, self.segment, self.kind, self.position)))

    @cached_property
    def dense_mask(self) -> Tensor:
        """[B, 1, T queries, T keys] of bool, true where the query sees the key."""
        same_sample = self.sample[:, :, None] == self.sample[:, None, :]
        same_segment = self.segment[:, :, None] == self.segment[:, None, :]
        over_context = (self.kind != Kind.LOCAL)[:, :, None] & (self.kind != Kind.FINAL)[:, None, :]
        length = self.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.sample.device).tril()
        return (same_sample & causal & (same_segment | over_context))[:, None]

    @cached_property
    def plan(self) -> SegmentPlan:
        """How the `segments` path computes this batch. Raises ValueError where a segment lies in several runs."""
        return plan_segments(self)

    def predictors(self) -> Tensor:
        """[B, T]: whether the token before, in the row, may predict this one: it is of the same segment."""
        before = torch.zeros(self.shape, dtype=torch.bool, device=self.sample.device)
        before[:, 1:] = (self.segment[:, 1:] == self.segment[:, :-1]) & (self.sample[:, 1:] != PADDING)
        return before


MOST_PADDING = 1.15
"""The most that the rows of a causal call hold, padding counted, for each token."""

Ints = npt.NDArray[np.int64]


def plan_segments(layout: Layout) -> SegmentPlan:
    """Finds the runs of a batch, sorts them into causal buckets, and finds the calls over a context."""
    runs = _runs(layout)
    order = np.argsort(-runs["length"], kind="stable")
    buckets: list[CausalBucket] = []
    index: list[Ints] = []
    place = np.empty(layout.sample.numel(), np.int64)
    first = num_placed = 0
    while first < len(order):
        lengths = runs["length"][order[first:]]
        # Sorted downwards, so the padded size is rows x the first length.
        padded = (np.arange(len(lengths)) + 1) * lengths[0]
        rows = int(np.count_nonzero(padded <= MOST_PADDING * np.cumsum(lengths)))
        bucket = CausalBucket(rows, int(lengths[0]))
        starts = runs["start"][order[first : first + rows]]
        offsets = np.arange(bucket.length)[None, :]
        is_real = offsets < lengths[:rows, None]
        # Padding repeats the segment's first token: it stands after all that is real, where nothing real sees it.
        tokens = np.where(is_real, starts[:, None] + offsets, starts[:, None])
        places = num_placed + np.arange(rows * bucket.length).reshape(rows, -1)
        place[tokens[is_real]] = places[is_real]
        index.append(tokens.reshape(-1))
        buckets.append(bucket)
        first, num_placed = first + rows, num_placed + rows * bucket.length
    device = layout.sample.device
    return SegmentPlan(
        buckets=tuple(buckets),
        calls=tuple(_context_calls(runs)),
        index=torch.from_numpy(np.concatenate(index)).to(device),
        place=torch.from_numpy(place).to(device),
    )


def _runs(layout: Layout) -> dict[str, npt.NDArray[np.int64]]:
    """Start, length, sample and kind of each run of equal sample and segment, over all rows laid end to end."""
    sample, segment, kind = (x.cpu().numpy() for x in (layout.sample, layout.segment, layout.kind))
    row = np.broadcast_to(np.arange(sample.shape[0])[:, None], sample.shape).reshape(-1)
    sample, segment, kind = sample.reshape(-1), segment.reshape(-1), kind.reshape(-1)
    changes = np.ones(len(row), np.bool_)
    changes[1:] = (row[1:] != row[:-1]) | (sample[1:] != sample[:-1]) | (segment[1:] != segment[:-1])
    start = np.flatnonzero(changes)
    keys = np.stack([row[start], sample[start], segment[start]], axis=1)
    if len(np.unique(keys, axis=0)) < len(start):
        raise ValueError("Cannot plan attention: the tokens of a segment are not one run")
    return {
        "start": start,
        "length": np.diff(np.append(start, len(row))),
        "owner": np.cumsum(np.concatenate([[True], np.any(keys[1:, :2] != keys[:-1, :2], axis=1)])) - 1,
        "kind": kind[start],
    }


def _context_calls(runs: dict[str, npt.NDArray[np.int64]]) -> list[ContextCall]:
    """A call for each global segment that has a context, and one for the final segments of each sample that has one."""
    calls: list[ContextCall] = []
    borders = np.flatnonzero(np.append(True, np.diff(runs["owner"]) != 0))
    for first, end in zip(borders, np.append(borders[1:], len(runs["owner"])), strict=True):
        kind, length = runs["kind"][first:end], runs["length"][first:end]
        is_final = kind == Kind.FINAL
        num_context = int(np.argmax(is_final)) if is_final.any() else len(kind)
        if not is_final[num_context:].all():
            raise ValueError("Cannot plan attention: a sample's context does not stand before all its final segments")
        num_keys = np.cumsum(length) - length
        asks = [(i, int(length[i])) for i in np.flatnonzero(kind == Kind.GLOBAL).tolist()]
        asks.append((num_context, int(length[num_context:].sum())))
        calls += [
            ContextCall(int(runs["start"][first]), int(num_keys[i]), num_queries)
            for i, num_queries in asks
            if i > 0 and num_queries > 0
        ]
    return calls
