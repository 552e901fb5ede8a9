"""What sees what in a row of tokens: the one representation that every attention path and the loss are made from.

A token belongs to a sample, and within it to a segment. Query q sees key k if and only if both are of one sample, k
stands at or before q in the row, and k is in q's segment, or q is in a final segment and k in one that is not final
(arXiv:2409.15355v5, section 2). In block mode each local block is a segment that is not final, and the final block
with its response is a final one. In full mode a sample is one final segment. Questions that share a context are
several final segments after it, which do not see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


class Segment(NamedTuple):
    """A run of tokens of one sample that attends causally within itself."""

    length: int
    is_final: bool
    first_position: int


def shared_context(
    num_opening: int,
    context_lengths: Sequence[int],
    final_lengths: Sequence[int],
    mode: Mode,
    *,
    reencodes: bool = True,
) -> list[Segment]:
    """Segments of several questions over one context; one question is the common case.

    `num_opening` counts BOS and prefix: they belong to block 0, which is the final block where there is no other.
    `final_lengths` count each final block with its response. Each question's positions go on where the context ends.
    Without `reencodes`, the positions of each local block start at 0 (the paper's ablation of position re-encoding).

    Raises ValueError for a final block without tokens, or for several questions without a context.

    >>> shared_context(1, [2], [3], "block")
    [Segment(length=3, is_final=False, first_position=0), Segment(length=3, is_final=True, first_position=3)]
    """
    if not final_lengths or min(final_lengths) < 1:
        raise ValueError("Cannot lay out a sample: its final block has no tokens")
    if not context_lengths:
        if len(final_lengths) > 1:
            raise ValueError(f"Cannot lay out {len(final_lengths)} questions: they share no context")
        return [Segment(num_opening + final_lengths[0], True, 0)]
    blocks = [num_opening + context_lengths[0], *context_lengths[1:]]
    context = sum(blocks)
    if mode == "full":
        if len(final_lengths) == 1:
            return [Segment(context + final_lengths[0], True, 0)]
        blocks = [context]
    segments: list[Segment] = []
    position = 0
    for length in blocks:
        if length > 0:
            segments.append(Segment(length, False, position if reencodes or mode == "full" else 0))
        position += length
    return segments + [Segment(length, True, context) for length in final_lengths]


class CausalBucket(NamedTuple):
    """Segments of about one length that see themselves alone: the rows of one padded, causal call."""

    num_segments: int
    length: int


class ContextCall(NamedTuple):
    """The final segments of one sample over its context, which stands before them: no mask, all keys are seen."""

    first_key: int
    num_keys: int
    num_queries: int


@dataclass(frozen=True)
class SegmentPlan:
    """How the `segments` path computes a batch: indices into its tokens, rows laid one after another.

    Every segment attends causally to itself, in a bucket; final segments attend to their context besides, in a call.
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
    is_final: Tensor
    position: Tensor

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Sequence[Segment]]], multiple: int = 1) -> Self:
        """Lays out rows of samples of segments; shorter rows are filled up to the longest, and that to a multiple."""
        longest = max((sum(s.length for sample in row for s in sample) for row in rows), default=0)
        shape = (len(rows), max(multiple, -(-longest // multiple) * multiple))
        sample = np.full(shape, PADDING, np.int32)
        segment = np.full(shape, PADDING, np.int32)
        is_final = np.zeros(shape, np.bool_)
        position = np.zeros(shape, np.int64)
        for b, row in enumerate(rows):
            start = number = 0
            for s, segments in enumerate(row):
                for length, final, first in segments:
                    end = start + length
                    sample[b, start:end] = s
                    segment[b, start:end] = number
                    is_final[b, start:end] = final
                    position[b, start:end] = np.arange(first, first + length)
                    start, number = end, number + 1
            position[b, start:] = np.arange(shape[1] - start)
        return cls(*(torch.from_numpy(x) for x in (sample, segment, is_final, position)))

    @property
    def shape(self) -> torch.Size:
        return self.sample.shape

    def to(self, device: torch.device | str) -> "Layout":
        """The same on a device; what was made from it is made anew there."""
        if torch.device(device) == self.sample.device:
            return self
        return Layout(*(x.to(device) for x in (self.sample, self.segment, self.is_final, self.position)))

    @cached_property
    def dense_mask(self) -> Tensor:
        """[B, 1, T queries, T keys] of bool, true where the query sees the key."""
        same_sample = self.sample[:, :, None] == self.sample[:, None, :]
        same_segment = self.segment[:, :, None] == self.segment[:, None, :]
        over_context = self.is_final[:, :, None] & ~self.is_final[:, None, :]
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
    sample, segment, final = (x.cpu().numpy() for x in (layout.sample, layout.segment, layout.is_final))
    row = np.broadcast_to(np.arange(sample.shape[0])[:, None], sample.shape).reshape(-1)
    sample, segment, final = sample.reshape(-1), segment.reshape(-1), final.reshape(-1)
    changes = np.ones(len(row), np.bool_)
    changes[1:] = (row[1:] != row[:-1]) | (sample[1:] != sample[:-1]) | (segment[1:] != segment[:-1])
    start = np.flatnonzero(changes)
    keys = np.stack([row[start], sample[start], segment[start]], axis=1)
    if len(np.unique(keys, axis=0)) < len(start):
        raise ValueError("Cannot plan attention: the tokens of a segment are not one run")
    owner = np.cumsum(np.concatenate([[True], np.any(keys[1:, :2] != keys[:-1, :2], axis=1)])) - 1
    is_final = final[start]
    has_local = np.zeros(owner[-1] + 1, np.bool_)
    np.logical_or.at(has_local, owner, ~is_final)
    return {
        "start": start,
        "length": np.diff(np.append(start, len(row))),
        "owner": owner,
        "is_final": is_final,
        "has_context": is_final & has_local[owner],
    }


def _context_calls(runs: dict[str, npt.NDArray[np.int64]]) -> list[ContextCall]:
    """A call for each sample that has a context."""
    calls: list[ContextCall] = []
    borders = np.flatnonzero(np.append(True, np.diff(runs["owner"]) != 0))
    for first, end in zip(borders, np.append(borders[1:], len(runs["owner"])), strict=True):
        asks = runs["has_context"][first:end]
        if not asks.any():
            continue
        num_context = int(np.argmax(asks))
        if not asks[num_context:].all():
            raise ValueError("Cannot plan attention: a sample's context does not stand before all its final segments")
        lengths = runs["length"][first:end]
        num_keys, num_queries = int(lengths[:num_context].sum()), int(lengths[num_context:].sum())
        calls.append(ContextCall(int(runs["start"][first]), num_keys, num_queries))
    return calls
