from itertools import islice
from pathlib import Path

import pytest
import torch
from factory import VOCAB_SIZE, random_samples, sample, write

from block_attention_trainer.batch import Collator, Opening
from block_attention_trainer.layout import Encoding
from block_attention_trainer.packing import Item, PackingOptions, count_rows, plan_rows, plan_stream
from block_attention_trainer.samples import Limits, SampleFiles, SampleIndex

OPENING = Opening(bos=0, prefix=(7, 8))
OPTIONS = PackingOptions(
    modes=("block", "full"),
    num_opening=OPENING.lengths(),
    tokens_per_row=100,
    share_contexts=True,
    open_rows=3,
    shuffled_row_groups=2,
)


@pytest.fixture
def files(tmp_path: Path) -> SampleFiles:
    return SampleFiles([write(tmp_path / "a", random_samples(1, 60, group_size=3), row_group_size=6)])


def index_of(files: SampleFiles) -> SampleIndex:
    return files.index(Limits(VOCAB_SIZE, 100, OPENING.lengths()))


def seen(rows: list[tuple[Item, ...]]) -> list[tuple[str, int]]:
    return sorted((item.mode, i) for row in rows for item in row for i in item.samples)


@pytest.mark.parametrize("tokens_per_row", [None, 60, 100, 1000])
@pytest.mark.parametrize("share", [True, False])
def test_plan_rows_holds_each_sample_once_in_each_mode(
    files: SampleFiles, tokens_per_row: int | None, share: bool
) -> None:
    options = OPTIONS.__class__(**{**vars(OPTIONS), "tokens_per_row": tokens_per_row, "share_contexts": share})
    rows = list(plan_rows(index_of(files), options, seed=1))
    assert seen(rows) == sorted((mode, i) for mode in ("block", "full") for i in range(60))
    assert all(sum(item.num_tokens for item in row) <= (tokens_per_row or 100) for row in rows)
    if tokens_per_row is None:
        assert len(rows) == 120


def test_plan_rows_depends_on_seed_and_epoch_alone(files: SampleFiles) -> None:
    index = index_of(files)
    first, again = (list(plan_rows(index, OPTIONS, seed=1, epoch=0)) for _ in range(2))
    assert first == again
    assert first != list(plan_rows(index, OPTIONS, seed=1, epoch=1))
    assert first != list(plan_rows(index, OPTIONS, seed=2, epoch=0))


def test_plan_stream_goes_on_where_it_was_left(files: SampleFiles) -> None:
    index = index_of(files)
    per_epoch = count_rows(index, OPTIONS, 1, 1)
    whole = list(islice(plan_stream(index, OPTIONS, 1, 0), 2 * per_epoch))
    assert list(islice(plan_stream(index, OPTIONS, 1, per_epoch + 3), 5)) == whole[per_epoch + 3 : per_epoch + 8]


def test_plan_rows_draws_a_mode_for_each_context(files: SampleFiles) -> None:
    options = OPTIONS.__class__(**{**vars(OPTIONS), "full_share": 0.4})
    epochs = [seen(list(plan_rows(index_of(files), options, seed=1, epoch=epoch))) for epoch in range(20)]
    assert all(sorted(i for _, i in epoch) == [*range(60)] for epoch in epochs), "each sample in one mode"
    groups = [{(mode, i // 3) for mode, i in epoch} for epoch in epochs]
    assert all(len(modes) == 20 for modes in groups), "questions over one context share its mode"
    full = sum(mode == "full" for epoch in epochs for mode, _ in epoch) / 1200
    assert 0.3 < full < 0.5
    both = seen(list(plan_rows(index_of(files), options, seed=None)))
    assert len(both) == 120, "for evaluation nothing is drawn"


def test_plan_rows_counts_lead_ins_and_sinks(files: SampleFiles) -> None:
    index = index_of(files)
    options = OPTIONS.__class__(**{**vars(OPTIONS), "front_length": 3})
    collate = Collator(files, index, OPENING, encoding=Encoding((1, 2), (3,)))
    for row in plan_rows(index, options, seed=1):
        assert collate(row).num_tokens == sum(item.num_tokens for item in row)


def test_plan_rows_fills_rows(files: SampleFiles) -> None:
    rows = list(plan_rows(index_of(files), OPTIONS, seed=1))
    filled = sum(item.num_tokens for row in rows for item in row) / (100 * len(rows))
    assert filled > 0.85


def test_collator_lays_out_opening_context_and_questions(tmp_path: Path) -> None:
    samples = [
        sample("a", [[11, 12], [13]], [14, 15], group_id="g"),
        sample("b", [[11, 12], [16, 17]], [18], group_id="g"),
    ]
    files = SampleFiles([write(tmp_path / "a", samples)])
    collate = Collator(files, index_of(files), OPENING)
    batch = collate((Item("block", (0, 1), 11), Item("full", (1,), 6)))
    assert batch.input_ids.tolist() == [[0, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 0, 11, 12, 16, 17, 18]]
    assert batch.layout.position.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 0, 1, 2, 3, 4, 5]]
    assert batch.targets.tolist() == [14, 15, 18, 18]
    assert batch.predictors.tolist() == [5, 6, 9, 15]
    assert batch.is_first.tolist() == [True, False, True, True]
    assert batch.question.tolist() == [1, 1, 2, 3]
    assert batch.sample_ids == ("a", "b", "b")
    assert batch.num_tokens == 17


def test_collator_lays_out_global_spans_of_a_shared_context(tmp_path: Path) -> None:
    """A question, its answer and a later passage, then two questions over them; in a run beside a file of blocks."""
    kinds = {"is_global": [False, True, False, True], "group_id": "g"}
    context = [[11], [12, 13], [14]]
    spans = [sample("a", [*context, [15]], [16], **kinds), sample("b", [*context, [17, 18]], [19], **kinds)]
    paths = [
        write(tmp_path / "blocks", [sample("c", [[11], [12]], [13])]),
        write(tmp_path / "spans", spans, block_attention_packing="2"),
    ]
    files = SampleFiles(paths)
    batch = Collator(files, index_of(files), OPENING)((Item("block", (1, 2), 12), Item("block", (0,), 6)))
    assert batch.input_ids.tolist() == [[0, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19, 0, 7, 8, 11, 12, 13]]
    assert batch.layout.position.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 9, 0, 1, 2, 3, 4, 5]]
    assert batch.layout.segment.tolist() == [[0] * 4 + [1] * 2 + [2] + [3] * 2 + [4] * 3 + [5] * 4 + [6] * 2]
    assert batch.layout.kind.tolist() == [[0] * 4 + [1] * 2 + [0] + [2] * 5 + [0] * 4 + [2] * 2]
    assert batch.targets.tolist() == [16, 19, 13]
    kept = Collator(files, index_of(files), OPENING, reencodes=False)((Item("block", (1,), 9),))
    assert kept.layout.position.tolist() == [[0, 1, 2, 3, 4, 5, 0, 7, 8]], "a global span keeps its place"


def test_collator_puts_lead_in_and_sinks_before_local_blocks(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[11, 12], [13], [14]], [15])])])
    collate = Collator(files, index_of(files), OPENING, encoding=Encoding((21, 22), (23,)))
    block, full = collate((Item("block", (0,), 10),)), collate((Item("full", (0,), 6),))
    assert block.input_ids.tolist() == [[0, 7, 8, 11, 12, 21, 22, 23, 13, 14, 15]]
    assert block.layout.position.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8]]
    assert block.layout.kind.tolist() == [[0, 0, 0, 0, 0, 3, 3, 0, 0, 2, 2]]
    assert (block.predictors.tolist(), block.targets.tolist()) == ([9], [15])
    assert (block.in_block.tolist(), full.in_block.tolist()) == ([True], [False])
    assert full.input_ids.tolist() == [[0, 11, 12, 13, 14, 15]]


def test_collator_makes_a_drawn_block_see_all_before_it(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[11], [12], [], [13], [14]], [15])])])
    collate = Collator(files, index_of(files), Opening(None, ()), block_dropout=0.5, encoding=Encoding((21,)))
    kinds = [collate((Item("block", (0,), 9, draw),)).layout.kind.tolist() for draw in (0.0, 0.24, 0.26, 0.49, 0.5)]
    first, second, none = [0, 1, 3, 0, 2, 2], [0, 3, 0, 1, 2, 2], [0, 3, 0, 3, 0, 2, 2]
    assert kinds == [[first], [first], [second], [second], [none]]


def test_collator_never_adds_bos_twice(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[0, 11], [13]], [14])])])
    batch = Collator(files, index_of(files), Opening(bos=0, prefix=()))((Item("full", (0,), 4),))
    assert batch.input_ids.tolist() == [[0, 11, 13, 14]]


def test_collator_predicts_nothing_over_a_border_when_the_prompt_counts(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[11, 12], [13, 14], [15]], [16])])])
    collate = Collator(files, index_of(files), Opening(None, ()), loss_on_prompt=True)
    batch = collate((Item("block", (0,), 6),))
    assert batch.targets.tolist() == [12, 14, 16]
    assert batch.predictors.tolist() == [0, 2, 4]
    assert collate((Item("full", (0,), 6),)).targets.tolist() == [12, 13, 14, 15, 16]


def test_collator_without_reencoding_starts_each_local_block_at_zero(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[11, 12], [13, 14, 15], [16]], [17])])])
    collate = Collator(files, index_of(files), Opening(bos=0, prefix=()), reencodes=False)
    assert collate((Item("block", (0,), 8),)).layout.position.tolist() == [[0, 1, 2, 0, 1, 2, 6, 7]]
    assert collate((Item("full", (0,), 8),)).layout.position.tolist() == [list(range(8))]


def test_collator_finds_answers_after_a_marker(tmp_path: Path) -> None:
    files = SampleFiles([write(tmp_path / "a", [sample("a", [[11], [21, 22]], [12, 21, 22, 13, 21, 22, 14])])])
    batch = Collator(files, index_of(files), Opening(None, ()), answer_after=[21, 22])((Item("full", (0,), 10),))
    first = batch.targets[batch.is_first].tolist()
    assert first == [12, 13, 14], "the marker may end in the prompt"


def test_collator_of_no_samples_is_a_row_without_targets(files: SampleFiles) -> None:
    batch = Collator(files, index_of(files), OPENING)(())
    assert batch.input_ids.shape == (1, 1)
    assert len(batch.targets) == 0
    assert torch.equal(batch.layout.sample, torch.tensor([[-1]], dtype=torch.int32))
