"""Block distillation: the model in full mode, frozen, teaches the model in block mode (arXiv:2605.15913).

The teacher's distribution over each target is kept as its likeliest tokens and the probability of all others together.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Batch, Collator
from .evaluation import target_logits
from .packing import Row


class Soft(NamedTuple):
    """A distribution over the vocabulary for each of N targets: K likeliest tokens, and the rest together."""

    tokens: Tensor
    """[N, K] ids, the likeliest first."""
    log_probs: Tensor
    """[N, K] of these."""
    rest: Tensor
    """[N] log probability of all other tokens together."""

    @classmethod
    def of_logits(cls, logits: Tensor, top_k: int) -> "Soft":
        """Of logits [N, vocabulary]."""
        kept, tokens = logits.log_softmax(-1).topk(min(top_k, logits.shape[-1]), -1)
        return cls(tokens, kept, _log_rest(kept))


LEAST_REST = 1e-6
"""What the tokens that are not kept have at least: rounding may leave them less than nothing."""


def _log_rest(log_probs: Tensor) -> Tensor:
    return (1 - log_probs.exp().sum(-1)).clamp(min=LEAST_REST).log()


def divergence(teacher: Soft, logits: Tensor) -> Tensor:
    """KL divergence of the student's distributions, by its logits [N, vocabulary], from the teacher's: [N].

    Tokens that the teacher does not keep count as one. With the whole vocabulary kept it is the exact divergence, but
    for LEAST_REST.
    """
    student = logits.log_softmax(-1).gather(-1, teacher.tokens)
    kept = (teacher.log_probs.exp() * (teacher.log_probs - student)).sum(-1)
    return kept + teacher.rest.exp() * (teacher.rest - _log_rest(student))


def sensitivity(teacher: Soft, logits: Tensor, targets: Tensor, clip: float) -> Tensor:
    """How much each target counts: [N], 1 on average, no gradient.

    1 and how much likelier, in nats, the target is to the teacher than to the student, from 0 to `clip`: what block
    mode hurts is learned most. A target that the teacher does not keep is taken for all of the rest.
    """
    with torch.no_grad():
        student = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        is_target = teacher.tokens == targets[:, None]
        kept = torch.where(is_target, teacher.log_probs, -torch.inf).amax(-1)
        given = torch.where(is_target.any(-1), kept, teacher.rest)
        weights = 1 + (given - student).clamp(0, clip)
        return weights / weights.mean() if len(weights) else weights


class SoftStore:
    """What a teacher said of samples, in a file that outlives the run. 4 K + 2 (K + 1) bytes a target."""

    def __init__(self, path: Path, teacher: str) -> None:
        """`teacher` names the teacher's weights: what another one said is not taken."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._teacher = teacher
        self._database = sqlite3.connect(path, timeout=60)
        self._database.execute(
            "create table if not exists soft (key blob primary key, k integer, tokens blob, log_probs blob)"
        )

    def get(self, ids: bytes) -> Soft | None:
        """What was said of a sample, by the bytes of its ids and labels."""
        found = self._database.execute(
            "select k, tokens, log_probs from soft where key = ?", (self._key(ids),)
        ).fetchone()
        if found is None:
            return None
        k, tokens, log_probs = found
        probs = torch.from_numpy(np.frombuffer(log_probs, np.float16).reshape(-1, k + 1).astype(np.float32))
        return Soft(
            torch.from_numpy(np.frombuffer(tokens, np.int32).reshape(-1, k).astype(np.int64)), probs[:, :k], probs[:, k]
        )

    def put(self, ids: bytes, soft: Soft) -> None:
        tokens = soft.tokens.cpu().numpy().astype(np.int32)
        probs = torch.cat([soft.log_probs, soft.rest[:, None]], -1).cpu().numpy().astype(np.float16)
        row = (self._key(ids), tokens.shape[1], tokens.tobytes(), probs.tobytes())
        with self._database:
            self._database.execute("insert or replace into soft values (?, ?, ?, ?)", row)

    def _key(self, ids: bytes) -> bytes:
        return hashlib.blake2b(self._teacher.encode() + b"\0" + ids, digest_size=16).digest()


class Teacher:
    """Gives the teacher's distributions over the targets of a row that are learned in block mode.

    Contexts whose answers the store has are not computed again; those of a row that it lacks are computed together.
    """

    def __init__(
        self,
        model: nn.Module,
        teaching: Callable[[], AbstractContextManager[object]],
        collate: Collator,
        store: SoftStore | None,
        top_k: int,
    ) -> None:
        """`teaching` makes `model` the teacher while it is entered."""
        self._model = model
        self._teaching = teaching
        self._collate = collate
        self._store = store
        self._top_k = top_k

    def soft(self, batch: Batch) -> Soft:
        """[N, K] for the N targets of the batch with `in_block`, in their order, on the batch's device."""
        device = batch.input_ids.device
        row: Row = tuple(item._replace(mode="full") for item in batch.row if item.mode == "block")
        known = {i: self._known(i) for item in row for i in item.samples}
        missing = tuple(item for item in row if any(known[i] is None for i in item.samples))
        if missing:
            for i, computed in self._compute(missing, device):
                if self._store is not None:
                    self._store.put(self._collate.bytes_of(i), computed)
                # As it is kept, so that a run that goes on learns the same.
                known[i] = computed if self._store is None else self._known(i)
        found = [soft for item in row for i in item.samples if (soft := known[i]) is not None]
        if not found:
            empty = torch.zeros(0, self._top_k, device=device)
            return Soft(empty.long(), empty, empty.sum(-1))
        return Soft(*(torch.cat(parts).to(device) for parts in zip(*found, strict=True)))

    def _known(self, sample: int) -> Soft | None:
        return None if self._store is None else self._store.get(self._collate.bytes_of(sample))

    def _compute(self, row: Row, device: torch.device) -> Iterator[tuple[int, Soft]]:
        batch = self._collate(row).to(device)
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad(), self._teaching():
            soft = Soft.of_logits(target_logits(self._model, batch), self._top_k)
        self._model.train(was_training)
        counts = torch.unique_consecutive(batch.question, return_counts=True)[1].tolist()
        parts = zip(*(x.split(counts) for x in soft), strict=True)
        for i, part in zip((i for item in row for i in item.samples), parts, strict=True):
            yield i, Soft(*part)
