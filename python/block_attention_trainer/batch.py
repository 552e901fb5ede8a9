"""A row of samples as the model takes it: ids, layout, and which row predicts which target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import PLAIN, Encoding, Layout, Mode, Segment, has_front, shared_context
from .packing import Item, Row
from .samples import IGNORED, Int32s, SampleFiles, SampleIndex


class Opening(NamedTuple):
    """Ids before block 0. BOS in both modes, never twice; the prefix in block mode only."""

    bos: int | None
    prefix: tuple[int, ...]

    def ids(self, mode: Mode) -> list[int]:
        return ([] if self.bos is None else [self.bos]) + (list(self.prefix) if mode == "block" else [])

    def lengths(self) -> dict[Mode, int]:
        return {"block": len(self.ids("block")), "full": len(self.ids("full"))}


@dataclass(frozen=True)
class Batch:
    """One row, [1, T tokens], and its N targets.

    The token at `predictors[n]` predicts `targets[n]`; `question[n]` numbers the questions of the row; `is_first[n]`
    marks an answer's first token; `in_block[n]` a target that is learned in block mode.
    """

    input_ids: Tensor
    layout: Layout
    predictors: Tensor
    targets: Tensor
    question: Tensor
    is_first: Tensor
    in_block: Tensor
    row: Row
    sample_ids: tuple[str, ...]
    modes: tuple[Mode, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of samples, padding not counted."""
        return int((self.layout.sample >= 0).sum())

    def to(self, device: torch.device | str) -> "Batch":
        names = ("input_ids", "predictors", "targets", "question", "is_first", "in_block")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, layout=self.layout.to(device), **moved)


class Collator:
    """Makes batches of planned rows."""

    def __init__(
        self,
        files: SampleFiles,
        index: SampleIndex,
        opening: Opening,
        *,
        multiple: int = 1,
        loss_on_prompt: bool = False,
        answer_after: Sequence[int] = (),
        reencodes: bool = True,
        encoding: Encoding = PLAIN,
        block_dropout: float = 0.0,
    ) -> None:
        self._files = files
        self._index = index
        self._opening = opening
        self._multiple = multiple
        self._loss_on_prompt = loss_on_prompt
        self._answer_after = np.array(answer_after, np.int32)
        self._reencodes = reencodes
        self._encoding = encoding
        self._block_dropout = block_dropout

    def __call__(self, row: Row) -> Batch:
        ids: list[Int32s] = []
        labels: list[Int32s] = []
        firsts: list[np.ndarray[tuple[int], np.dtype[np.bool_]]] = []
        samples: list[list[Segment]] = []
        names: list[str] = []
        for item in row:
            samples.append(self._add(item, ids, labels, firsts, names))
        layout = Layout.of_rows([samples], self._multiple)
        length = layout.shape[1]
        input_ids = np.zeros(length, np.int64)
        all_labels = np.full(length, IGNORED, np.int64)
        is_first = np.zeros(length, np.bool_)
        used = sum(len(x) for x in ids)
        if used:
            input_ids[:used] = np.concatenate(ids)
            all_labels[:used] = np.concatenate(labels)
            is_first[:used] = np.concatenate(firsts)
        # A token is predicted by the one before it, if that is of its own segment: never across a border.
        targets = np.flatnonzero((all_labels != IGNORED) & layout.predictors()[0].numpy())
        segment, sample = layout.segment[0].numpy(), layout.sample[0].numpy()
        is_block = np.array([item.mode == "block" for item in row], np.bool_)
        return Batch(
            torch.from_numpy(input_ids)[None],
            layout,
            torch.from_numpy(targets - 1),
            torch.from_numpy(all_labels[targets]),
            torch.from_numpy(segment[targets].astype(np.int64)),
            torch.from_numpy(is_first[targets]),
            torch.from_numpy(is_block[sample[targets]]),
            row,
            tuple(names),
            tuple(item.mode for item in row for _ in item.samples),
        )

    def bytes_of(self, sample: int) -> bytes:
        """What decides a sample's targets in full mode, by its number in the index: opening, ids and labels."""
        read = self._files.read(int(self._index.row_group[sample])).sample(int(self._index.row[sample]))
        opening = np.array(self._opening.ids("full"), np.int32)
        return b"".join(x.tobytes() for x in (opening, read.input_ids, read.labels))

    def _add(
        self,
        item: Item,
        ids: list[Int32s],
        labels: list[Int32s],
        firsts: list[np.ndarray[tuple[int], np.dtype[np.bool_]]],
        names: list[str],
    ) -> list[Segment]:
        read = [self._files.read(int(self._index.row_group[i])).sample(int(self._index.row[i])) for i in item.samples]
        opening = self._opening.ids(item.mode)
        context = read[0].input_ids[: read[0].num_context]
        first_id = read[0].input_ids[0]
        if self._opening.bos is not None and first_id == self._opening.bos:
            opening = opening[1:]
        lengths, kinds = (x[:-1].tolist() for x in (read[0].block_lengths, read[0].is_global))
        is_global = kinds if item.mode == "full" else self._dropped(lengths, kinds, item.draw)
        encoding = self._encoding if item.mode == "block" else PLAIN
        start = 0
        ids.append(np.array(opening, np.int32))
        labels.append(np.full(len(opening), IGNORED, np.int32))
        for length, fronted in zip(lengths, has_front(is_global, lengths, encoding), strict=True):
            own = context[start : start + length]
            front = np.array([*encoding.lead, *encoding.sinks] if fronted else [], np.int32)
            ids += [front, own]
            labels.append(np.full(len(front), IGNORED, np.int32))
            labels.append(own if self._loss_on_prompt else np.full(length, IGNORED, np.int32))
            start += length
        firsts.append(np.zeros(sum(len(x) for x in ids) - sum(len(x) for x in firsts), np.bool_))
        for sample in read:
            tail = sample.input_ids[sample.num_context :]
            tail_labels = sample.labels[sample.num_context :]
            ids.append(tail)
            firsts.append(self._first_tokens(tail, tail_labels))
            labels.append(tail if self._loss_on_prompt else tail_labels)
            names.append(sample.sample_id)
        finals = [len(sample.input_ids) - sample.num_context for sample in read]
        return shared_context(
            len(opening), lengths, finals, item.mode, is_global=is_global, encoding=encoding, reencodes=self._reencodes
        )

    def _dropped(self, lengths: list[int], kinds: list[bool], draw: float) -> list[bool]:
        """Block dropout: with its probability, one local block, but not block 0, sees all before it."""
        local = [i for i, n in enumerate(lengths) if i > 0 and n > 0 and not kinds[i]]
        if draw >= self._block_dropout or not local:
            return kinds
        place = local[int(draw / self._block_dropout * len(local))]
        return [sees_all or i == place for i, sees_all in enumerate(kinds)]

    def _first_tokens(self, ids: Int32s, labels: Int32s) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Where an answer begins: the response's first target, or each target that follows `answer_after`."""
        is_target = labels != IGNORED
        firsts = np.zeros(len(ids), np.bool_)
        size = len(self._answer_after)
        if size == 0:
            firsts[int(np.argmax(is_target))] = True
        elif len(ids) > size:
            windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
            firsts[size:] = np.all(windows == self._answer_after, axis=1)
        result: np.ndarray[tuple[int], np.dtype[np.bool_]] = firsts & is_target
        return result
