"""What sees what in a row of tokens: the one representation that every attention path and the loss are made from.

A token belongs to a sample, and within it to a segment. Query q sees key k if and only if both are of one sample, k
stands at or before q in the row, and k is in q's segment, or q is global or final and k is neither final nor of a
lead-in, or q is local and k of a preamble. In block mode each span of the prompt is a segment: a local one sees itself,
a global one all before it, and the last one, with the response, is final (arXiv:2409.15355v5, section 2, is the case
without global ones). In full mode a sample is one final segment. Questions that share a context are several final
segments after it, which do not see each other.

Blocks may be encoded with help. A lead-in stands before a local block, in its segment, at the positions right before
it: that block alone sees it, as if the two were encoded alone and the block's keys moved. A preamble is block 0, which
all blocks see. Sinks are tokens that a block begins with; they are the block's own.
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
    """What a token sees besides its segment, and who sees it besides that."""

    LOCAL = 0
    """Sees a preamble; global and final ones see it."""
    GLOBAL = 1
    """Sees local ones, global ones and a preamble; global and final ones see it."""
    FINAL = 2
    """Sees what a global one sees; nobody sees it."""
    LEAD = 3
    """Of a lead-in: sees nobody, nobody sees it."""
    PREAMBLE = 4
    """Sees nobody; all but lead-ins see it."""


class Segment(NamedTuple):
    """A run of tokens of one sample that attends causally within itself."""

    length: int
    """With the lead-in."""
    kind: Kind
    first_position: int
    """May be below 0 where a lead-in is longer than all that stands before its block."""
    num_lead: int = 0
    """Tokens of a lead-in that the segment begins with."""


class Encoding(NamedTuple):
    """How local blocks but block 0 are encoded, in block mode: behind a front of lead-in and sinks, over a preamble."""

    lead: tuple[int, ...] = ()
    """Ids of the lead-in."""
    sinks: tuple[int, ...] = ()
    """Ids that each of these blocks begins with."""
    sees_preamble: bool = False


PLAIN = Encoding()


def has_front(kinds: Sequence[bool], lengths: Sequence[int], encoding: Encoding) -> list[bool]:
    """Which spans of a context get lead-in and sinks: the local ones that have tokens, but block 0."""
    gets = bool(encoding.lead or encoding.sinks)
    return [
        gets and i > 0 and n > 0 and not sees_all for i, (sees_all, n) in enumerate(zip(kinds, lengths, strict=True))
    ]


def shared_context(
    num_opening: int,
    context_lengths: Sequence[int],
    final_lengths: Sequence[int],
    mode: Mode,
    *,
    is_global: Sequence[bool] | None = None,
    encoding: Encoding = PLAIN,
    reencodes: bool = True,
) -> list[Segment]:
    """Segments of several questions over one context; one question is the common case.

    `num_opening` counts BOS and prefix: they belong to block 0, which is the final block where there is no other.
    `is_global` says which spans of the context see all before them, default none. `final_lengths` count each final
    block with its response. Lengths are without lead-ins and sinks, which `encoding` adds. Each question's positions go
    on where the context ends. Without `reencodes`, the positions of each local block start at 0 (the paper's ablation
    of position re-encoding).

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
    if mode == "full":
        context = sum(blocks)
        if len(final_lengths) == 1:
            return [Segment(context + final_lengths[0], Kind.FINAL, 0)]
        blocks, is_global = [context], [True]
        encoding = PLAIN
    kinds = list(is_global or [False] * len(blocks))
    segments: list[Segment] = []
    position = 0
    fronted = has_front(kinds, blocks, encoding)
    for i, (length, sees_all) in enumerate(zip(blocks, kinds, strict=True)):
        if length > 0:
            kind = Kind.GLOBAL if sees_all else Kind.PREAMBLE if i == 0 and encoding.sees_preamble else Kind.LOCAL
            num_lead = len(encoding.lead) if fronted[i] else 0
            kept = length + (len(encoding.sinks) if fronted[i] else 0)
            first = position if reencodes or sees_all else 0
            segments.append(Segment(num_lead + kept, kind, first - num_lead, num_lead))
            position += kept
    return segments + [Segment(length, Kind.FINAL, position) for length in final_lengths]


class CausalBucket(NamedTuple):
    """Segments of about one length that see themselves alone: the rows of one padded, causal call."""

    num_segments: int
    length: int


class ContextCall(NamedTuple):
    """Queries over keys that all of them see, so without a mask.

    A global segment, or the final ones of a sample, over all that stands before it; or local ones over a preamble.
    Tokens are counted over the batch, rows laid one after another.
    """

    keys: "Tokens"
    queries: "Tokens"


Tokens = slice | Tensor
"""A slice where they are one run."""


@dataclass(frozen=True)
class SegmentPlan:
    """How the `segments` path computes a batch: indices into its tokens, rows laid one after another.

    Every segment attends causally to itself, in a bucket; those that see something before them besides do so in a call.
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
                for length, of_segment, first, num_lead in segments:
                    end = start + length
                    sample[b, start:end] = s
                    segment[b, start:end] = number
                    kind[b, start : start + num_lead] = Kind.LEAD
                    kind[b, start + num_lead : end] = of_segment
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
        over_context = self.sees_context[:, :, None] & self.is_context[:, None, :]
        over_preamble = (self.kind == Kind.LOCAL)[:, :, None] & (self.kind == Kind.PREAMBLE)[:, None, :]
        length = self.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.sample.device).tril()
        return (same_sample & causal & (same_segment | over_context | over_preamble))[:, None]

    @property
    def sees_context(self) -> Tensor:
        """[B, T]: whether a token sees what `is_context` before it."""
        return (self.kind == Kind.GLOBAL) | (self.kind == Kind.FINAL)

    @property
    def is_context(self) -> Tensor:
        """[B, T]: whether later global and final tokens see it."""
        return (self.kind != Kind.FINAL) & (self.kind != Kind.LEAD)

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
        calls=tuple(_context_calls(runs, layout)),
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
        # A lead-in stands before its block, in the same run.
        "kind": kind[np.append(start[1:], len(row)) - 1],
    }


def _context_calls(runs: dict[str, npt.NDArray[np.int64]], layout: Layout) -> list[ContextCall]:
    """Of each sample: each global segment and the final ones over their context, local ones over a preamble."""
    calls: list[ContextCall] = []
    is_lead = (layout.kind == Kind.LEAD).cpu().numpy().reshape(-1)

    def tokens(first: int, end: int) -> Tokens:
        """Without lead-ins."""
        found = np.flatnonzero(~is_lead[first:end]) + first
        if len(found) == end - first:
            return slice(first, end)
        return torch.from_numpy(found).to(layout.kind.device)

    borders = np.flatnonzero(np.append(True, np.diff(runs["owner"]) != 0))
    for first, end in zip(borders, np.append(borders[1:], len(runs["owner"])), strict=True):
        kind, start, length = (runs[name][first:end] for name in ("kind", "start", "length"))
        ends = start + length
        is_final = kind == Kind.FINAL
        num_context = int(np.argmax(is_final)) if is_final.any() else len(kind)
        if not is_final[num_context:].all():
            raise ValueError("Cannot plan attention: a sample's context does not stand before all its final segments")
        asks = [(i, i + 1) for i in np.flatnonzero(kind == Kind.GLOBAL).tolist()]
        asks.append((num_context, len(kind)))
        calls += [
            ContextCall(tokens(int(start[0]), int(start[i])), slice(int(start[i]), int(ends[to - 1])))
            for i, to in asks
            if i > 0 and to > i
        ]
        if kind[0] == Kind.PREAMBLE:
            # Local segments side by side ask together.
            local = np.flatnonzero(kind == Kind.LOCAL)
            for together in np.split(local, np.flatnonzero(np.diff(local) > 1) + 1):
                if len(together) > 0:
                    queries = tokens(int(start[together[0]]), int(ends[together[-1]]))
                    calls.append(ContextCall(slice(int(start[0]), int(ends[0])), queries))
    return calls
