from pathlib import Path
from typing import Any

import pytest
from factory import VOCAB_SIZE, random_samples, sample, write

from block_attention_trainer.samples import DataError, Limits, SampleFiles

LIMITS = Limits(VOCAB_SIZE, 40, {"block": 2, "full": 1})
GOOD = sample("good", [[1, 2], [3]], [4, 5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_ids": [1, 2, 3], "labels": [-100] * 3}, "it has no response tokens"),
        ({"labels": [-100] * 5}, r"its labels are all masked \(-100\)"),
        ({"labels": [-100] * 4}, "it has 4 labels for 5 tokens"),
        ({"input_ids": [1, 2, 3, 4, 64]}, "it holds the id 64, the model knows 0 to 63"),
        ({"input_ids": [-1, 2, 3, 4, 5]}, "it holds the id -1, the model knows 0 to 63"),
        ({"block_lengths": []}, "it has no blocks"),
        ({"block_lengths": [3, 0]}, "its final block has no tokens"),
        ({"block_lengths": [4, -1]}, "a block has -1 tokens"),
        ({"block_lengths": [3, 3]}, "its blocks hold 6 tokens, it has 5"),
        ({"labels": [-100, -100, 3, 4, 5]}, "it has labels in its prompt, they belong to the response"),
        ({"labels": [-100, -100, -100, 5, 6]}, "its labels differ from its ids, they are to be unshifted"),
        ({"modes": ["both"]}, r"its modes are \['both'\], wanted \"block\", \"full\" or both"),
        ({"modes": []}, r"its modes are \[\], wanted"),
        ({"input_ids": [1] * 39, "labels": [-100] * 38 + [1]}, "it has 41 tokens with BOS and prefix, at most 40 are"),
    ],
)
def test_index_names_the_sample_and_what_is_wrong(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "train.parquet", [GOOD, {**GOOD, "sample_id": "bad", **fields}])
    with pytest.raises(DataError, match=f'^Cannot train on sample "bad" of ".*train.parquet": {message}'):
        SampleFiles([path]).index(LIMITS)


@pytest.mark.parametrize(
    ("is_global", "message"),
    [
        ([True], "it has 1 values of is_global for 2 spans"),
        ([False, True, True], "it has 3 values of is_global for 2 spans"),
        ([True, False], "its last span is not global"),
    ],
)
def test_index_checks_the_kinds_of_spans(tmp_path: Path, is_global: list[bool], message: str) -> None:
    bad = sample("bad", [[1, 2], [3]], [4, 5], is_global=is_global)
    path = write(tmp_path / "train.parquet", [bad])
    with pytest.raises(DataError, match=f'^Cannot train on sample "bad" of ".*train.parquet": {message}'):
        SampleFiles([path]).index(LIMITS)


@pytest.mark.parametrize(
    ("ids", "kinds"), [([1, 9], {}), ([1, 2], {"is_global": [True, True]})], ids=["tokens", "kinds of spans"]
)
def test_index_refuses_a_group_whose_contexts_differ(tmp_path: Path, ids: list[int], kinds: dict[str, Any]) -> None:
    first = {"is_global": [False, True]} if kinds else {}
    samples = [
        sample("good", [[1, 2], [3]], [4, 5], group_id="g", **first),
        sample("other", [ids, [3]], [4], group_id="g", **kinds),
    ]
    with pytest.raises(DataError, match='it is in group "g", but its blocks before the last are not those of "good"'):
        SampleFiles([write(tmp_path / "a.parquet", samples)]).index(LIMITS)


def test_sample_files_refuse_what_is_no_parquet_and_what_lacks_a_column(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a table")
    with pytest.raises(DataError, match=r'^Cannot read ".*text": '):
        SampleFiles([tmp_path / "text"])
    with pytest.raises(DataError, match=r'^Cannot read ".*nowhere": '):
        SampleFiles([tmp_path / "nowhere"])
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"input_ids": [[1]]}), tmp_path / "half.parquet")
    with pytest.raises(DataError, match='it has no column "labels"'):
        SampleFiles([tmp_path / "half.parquet"])
    spans = pq.read_table(write(tmp_path / "spans.parquet", [sample("a", [[1]], [2], is_global=[True])]))
    pq.write_table(spans.drop_columns("is_global"), tmp_path / "lengths.parquet")
    with pytest.raises(DataError, match='it has no column "is_global"'):
        SampleFiles([tmp_path / "lengths.parquet"])
    pq.write_table(spans.drop_columns("span_lengths"), tmp_path / "kinds.parquet")
    with pytest.raises(DataError, match='it has no column "span_lengths"'):
        SampleFiles([tmp_path / "kinds.parquet"])
    with pytest.raises(DataError, match='its packing is of version "3", wanted "1" or "2"'):
        SampleFiles([write(tmp_path / "later.parquet", [GOOD], block_attention_packing="3")])


def test_sample_files_refuse_files_of_two_tokenizers(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, [GOOD], tokenizer_digest=name) for name in ("a", "b")]
    with pytest.raises(DataError, match=r'it was cut with tokenizer "b", ".*a" with "a"'):
        SampleFiles(paths)


def test_index_knows_lengths_modes_and_groups_over_files_and_row_groups(tmp_path: Path) -> None:
    samples = random_samples(1, 20, group_size=2)
    paths = [write(tmp_path / "a", samples[:12], row_group_size=4), write(tmp_path / "b", samples[12:])]
    files = SampleFiles(paths, cached_row_groups=2)
    index = files.index(Limits(VOCAB_SIZE, 99, {"block": 0, "full": 0}))
    assert len(index) == 20
    assert index.row_group.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 8
    for i, expected in enumerate(samples):
        got = files.read(int(index.row_group[i])).sample(int(index.row[i]))
        assert got.sample_id == expected["sample_id"]
        assert got.input_ids.tolist() == expected["input_ids"]
        assert index.num_context[i] == sum(expected["block_lengths"][:-1])
        assert index.num_context[i] + index.num_final[i] == len(expected["input_ids"])
    assert index.group[:4].tolist() == [0, 0, 1, 1]
