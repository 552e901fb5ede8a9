"""Training samples at rest: Parquet files, checked once, then read row group by row group.

docs/training-data.md is the format's description.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .layout import MODES, Mode

IGNORED = -100
"""The label of a token that is no target, Transformers' own."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

COLUMNS = ("input_ids", "labels", "modes", "sample_id")
SPAN_COLUMNS = ("span_lengths", "is_global")
"""In place of `block_lengths`, where others than the last may be global: a reader of blocks alone refuses the file."""


class DataError(ValueError):
    """A file or a sample that cannot be trained on; the message names it."""


class Sample(NamedTuple):
    """One prompt with its response: ids of both, unshifted labels, the prompt's blocks, and which of them see all."""

    sample_id: str
    input_ids: Int32s
    labels: Int32s
    block_lengths: Int32s
    is_global: Bools

    @property
    def num_context(self) -> int:
        """Tokens of all blocks but the final one."""
        return int(self.block_lengths[:-1].sum())


class Lists(NamedTuple):
    """A column of lists: row i is values[offsets[i]:offsets[i + 1]]."""

    values: Int32s
    offsets: Int64s

    def lengths(self) -> Int64s:
        return np.diff(self.offsets)

    def row(self, i: int) -> Int32s:
        return self.values[self.offsets[i] : self.offsets[i + 1]]


@dataclass(frozen=True)
class RowGroup:
    """One row group, decoded."""

    path: Path
    input_ids: Lists
    labels: Lists
    block_lengths: Lists
    is_global: Lists
    """Ones and zeros, one a block."""
    modes: list[list[str]]
    sample_ids: list[str]
    group_ids: list[str | None]

    def sample(self, i: int) -> Sample:
        return Sample(
            self.sample_ids[i],
            self.input_ids.row(i),
            self.labels.row(i),
            self.block_lengths.row(i),
            self.is_global.row(i).astype(np.bool_),
        )


class Limits(NamedTuple):
    """What a sample is held to. `num_opening` counts the tokens of BOS and prefix that each mode puts in front."""

    vocab_size: int
    max_tokens: int
    num_opening: dict[Mode, int]


@dataclass(frozen=True)
class SampleIndex:
    """What the packer must know of each sample; 25 bytes a sample stay in memory, tokens do not."""

    row_group: Int32s
    row: Int32s
    num_context: Int32s
    num_final: Int32s
    num_fronted: Int32s
    """Local blocks that have tokens, but block 0: what lead-ins and sinks stand before."""
    modes: npt.NDArray[np.uint8]
    """Bit i is set where the sample is trained in MODES[i]."""
    group: Int32s
    """Equal for samples of one row group that share all blocks but the last; -1 for none."""

    def __len__(self) -> int:
        return len(self.row)


class SampleFiles:
    """Parquet files of samples, opened, with their row groups numbered through.

    Raises DataError for a file that is none, lacks a column, is of a later packing, or was cut with another tokenizer
    than the others.
    """

    def __init__(self, paths: Sequence[Path], cached_row_groups: int = 16) -> None:
        self._files: list[tuple[Path, Any, int, list[str]]] = []
        self._cached: OrderedDict[int, RowGroup] = OrderedDict()
        self._cached_row_groups = cached_row_groups
        self.num_row_groups = 0
        self.metadata: dict[str, str] = {}
        for path in paths:
            file = _open(path)
            schema = file.schema_arrow
            has_spans = any(name in schema.names for name in SPAN_COLUMNS)
            columns = [*COLUMNS, *(SPAN_COLUMNS if has_spans else ("block_lengths",))]
            for name in columns:
                if name not in schema.names:
                    raise DataError(f'Cannot read "{path}": it has no column "{name}"')
            metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"}
            packing = metadata.get("block_attention_packing")
            if packing not in (None, "1", "2"):
                raise DataError(f'Cannot read "{path}": its packing is of version "{packing}", wanted "1" or "2"')
            digest, other = metadata.get("tokenizer_digest"), self.metadata.get("tokenizer_digest")
            if self._files and digest != other:
                raise DataError(
                    f'Cannot read "{path}": it was cut with tokenizer "{digest}", "{self._files[0][0]}" with "{other}"'
                )
            self.metadata = self.metadata or metadata
            columns += ["group_id"] if "group_id" in schema.names else []
            self._files.append((path, file, self.num_row_groups, columns))
            self.num_row_groups += file.num_row_groups

    def read(self, number: int) -> RowGroup:
        """A row group, from memory if it was read lately."""
        found = self._cached.pop(number, None)
        if found is None:
            found = self._decode(number)
        self._cached[number] = found
        while len(self._cached) > self._cached_row_groups:
            self._cached.popitem(last=False)
        return found

    def index(self, limits: Limits) -> SampleIndex:
        """Reads all once, checks each sample, and keeps what the packer must know.

        Raises DataError that names the first bad sample and what is wrong with it.
        """
        parts: list[tuple[Int64s, ...]] = []
        for number in range(self.num_row_groups):
            rows = self._decode(number)
            check(rows, limits)
            num_blocks = rows.block_lengths.lengths()
            prompts = _sums(rows.block_lengths)
            finals = rows.block_lengths.values[rows.block_lengths.offsets[1:] - 1] if len(prompts) else prompts
            modes = [sum(1 << i for i, mode in enumerate(MODES) if mode in names) for names in rows.modes]
            parts.append(
                (
                    np.full(len(num_blocks), number),
                    np.arange(len(num_blocks)),
                    prompts - finals,
                    rows.input_ids.lengths() - prompts + finals,
                    _num_fronted(rows),
                    np.array(modes, np.int64),
                    _groups(rows),
                )
            )
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 7
        if len(columns[0]) == 0:
            names = ", ".join(f'"{path}"' for path, *_ in self._files)
            raise DataError(f"Cannot train: there are no samples in {names or 'no files'}")
        row_group, row, num_context, num_final, num_fronted, mode_bits, group = columns
        return SampleIndex(
            row_group.astype(np.int32),
            row.astype(np.int32),
            num_context.astype(np.int32),
            num_final.astype(np.int32),
            num_fronted.astype(np.int32),
            mode_bits.astype(np.uint8),
            group.astype(np.int32),
        )

    def _decode(self, number: int) -> RowGroup:
        path, file, first, names = next(f for f in reversed(self._files) if f[2] <= number)
        try:
            table = file.read_row_group(number - first, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f'Cannot read "{path}": row group {number - first}: {_one_line(error)}') from error
        lengths = _lists(path, table, "block_lengths" if "block_lengths" in names else "span_lengths")
        if "is_global" in names:
            is_global = _lists(path, table, "is_global")
        else:
            is_global = lengths._replace(values=np.zeros_like(lengths.values))
            is_global.values[lengths.offsets[1:][lengths.lengths() > 0] - 1] = 1
        return RowGroup(
            path,
            _lists(path, table, "input_ids"),
            _lists(path, table, "labels"),
            lengths,
            is_global,
            [modes or [] for modes in table.column("modes").to_pylist()],
            [str(x) for x in table.column("sample_id").to_pylist()],
            table.column("group_id").to_pylist() if "group_id" in names else [None] * table.num_rows,
        )


def check(rows: RowGroup, limits: Limits) -> None:
    """Raises DataError for the first sample that cannot be trained on."""
    num_blocks, lengths = rows.block_lengths.lengths(), rows.input_ids.lengths()
    num_kinds = rows.is_global.lengths()
    prompts = _sums(rows.block_lengths)
    num_targets = _sums(rows.labels._replace(values=(rows.labels.values != IGNORED).astype(np.int32)))
    least, most = _extremes(rows.input_ids)
    least_block, _ = _extremes(rows.block_lengths)
    for i in range(len(lengths)):
        length, prompt = int(lengths[i]), int(prompts[i])

        def bad(what: str, i: int = i) -> NoReturn:
            raise DataError(f'Cannot train on sample "{rows.sample_ids[i]}" of "{rows.path}": {what}')

        labels = rows.labels.row(i)
        if len(labels) != length:
            bad(f"it has {len(labels)} labels for {length} tokens")
        if num_blocks[i] == 0:
            bad("it has no blocks")
        if least_block[i] < 0:
            bad(f"a block has {least_block[i]} tokens")
        if rows.block_lengths.row(i)[-1] == 0:
            bad("its final block has no tokens")
        if num_kinds[i] != num_blocks[i]:
            bad(f"it has {num_kinds[i]} values of is_global for {num_blocks[i]} spans")
        if not rows.is_global.row(i)[-1]:
            bad("its last span is not global")
        if prompt > length:
            bad(f"its blocks hold {prompt} tokens, it has {length}")
        if prompt == length:
            bad("it has no response tokens")
        if num_targets[i] == 0:
            bad(f"its labels are all masked ({IGNORED})")
        if least[i] < 0 or most[i] >= limits.vocab_size:
            wrong = least[i] if least[i] < 0 else most[i]
            bad(f"it holds the id {wrong}, the model knows 0 to {limits.vocab_size - 1}")
        if np.any(labels[:prompt] != IGNORED):
            bad("it has labels in its prompt, they belong to the response")
        response = labels[prompt:]
        if np.any((response != IGNORED) & (response != rows.input_ids.row(i)[prompt:])):
            bad("its labels differ from its ids, they are to be unshifted")
        if not rows.modes[i] or any(mode not in MODES for mode in rows.modes[i]):
            bad(f'its modes are {rows.modes[i]}, wanted "block", "full" or both')
        opening = max((limits.num_opening[mode] for mode in MODES if mode in rows.modes[i]), default=0)
        if opening + length > limits.max_tokens:
            bad(f"it has {opening + length} tokens with BOS and prefix, at most {limits.max_tokens} are allowed")


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f'Cannot read "{path}": {_one_line(error)}') from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _lists(path: Path, table: Any, name: str) -> Lists:
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    is_kind, wanted = (pa.types.is_boolean, "booleans") if name == "is_global" else (pa.types.is_integer, "integers")
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not is_kind(kind.value_type):
        raise DataError(f'Cannot read "{path}": column "{name}" is {kind}, wanted a list of {wanted}')
    if column.null_count or column.flatten().null_count:
        raise DataError(f'Cannot read "{path}": column "{name}" has nulls')
    values = column.values.to_numpy(zero_copy_only=False)
    if values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
        raise DataError(f'Cannot read "{path}": column "{name}" has values past 32 bits')
    return Lists(values.astype(np.int32, copy=False), column.offsets.to_numpy(zero_copy_only=False).astype(np.int64))


def _sums(lists: Lists) -> Int64s:
    totals = np.concatenate([[0], np.cumsum(lists.values, dtype=np.int64)])
    return totals[lists.offsets[1:]] - totals[lists.offsets[:-1]]


def _num_fronted(rows: RowGroup) -> Int64s:
    has_front = (rows.is_global.values == 0) & (rows.block_lengths.values > 0)
    has_front[rows.block_lengths.offsets[:-1][rows.block_lengths.lengths() > 0]] = False
    return _sums(rows.block_lengths._replace(values=has_front.astype(np.int32)))


def _extremes(lists: Lists) -> tuple[Int64s, Int64s]:
    """The least and the greatest value of each row, 0 for an empty one."""
    least = np.zeros(len(lists.offsets) - 1, np.int64)
    most = np.zeros(len(lists.offsets) - 1, np.int64)
    filled = np.flatnonzero(lists.lengths() > 0)
    if len(filled):
        # Between the start of one filled row and the next there are rows without values only.
        values = lists.values[: lists.offsets[-1]]
        least[filled] = np.minimum.reduceat(values, lists.offsets[filled])
        most[filled] = np.maximum.reduceat(values, lists.offsets[filled])
    return least, most


def _groups(rows: RowGroup) -> Int64s:
    """A number for each group of this row group, -1 for samples without. Raises DataError where contexts differ."""
    numbers = np.full(len(rows.sample_ids), -1, np.int64)
    known: dict[str, tuple[int, bytes, str]] = {}
    for i, group in enumerate(rows.group_ids):
        if group is None:
            continue
        sample = rows.sample(i)
        digest = hashlib.blake2b(sample.block_lengths[:-1].tobytes(), digest_size=16)
        digest.update(sample.is_global[:-1].tobytes())
        digest.update(sample.input_ids[: sample.num_context].tobytes())
        number, context, first = known.setdefault(group, (len(known), digest.digest(), sample.sample_id))
        if context != digest.digest():
            raise DataError(
                f'Cannot train on sample "{sample.sample_id}" of "{rows.path}": it is in group "{group}", but its '
                f'blocks before the last are not those of "{first}"'
            )
        numbers[i] = number
    return numbers
