"""Block distillation against the same thing said plainly: one sample at a time, whole distributions, dense masks."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from factory import ARCHITECTURE, VOCAB_SIZE, random_samples, run_settings, sample, write
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from block_attention_trainer.attention import implementation_name, register_attention
from block_attention_trainer.batch import Collator, Opening
from block_attention_trainer.distillation import Soft, SoftStore, Teacher, divergence, sensitivity
from block_attention_trainer.evaluation import greedy_answer, target_logits
from block_attention_trainer.layout import Encoding
from block_attention_trainer.models import as_teacher, fingerprint, load_model, load_tokenizer
from block_attention_trainer.packing import Item
from block_attention_trainer.samples import Limits, SampleFiles
from block_attention_trainer.settings import LoraSettings, ModelSettings, parse_settings
from block_attention_trainer.train import train

OPENING = Opening(None, ())


def tiny_model(attention: str = "dense") -> Any:
    register_attention()
    torch.manual_seed(3)
    values = {key: value for key, value in ARCHITECTURE.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", **values, vocab_size=VOCAB_SIZE)
    return AutoModelForCausalLM.from_config(
        config,
        dtype=torch.float32,
        attn_implementation=implementation_name(attention),  # type: ignore[arg-type]
    )


def collator(tmp_path: Path, samples: list[dict[str, Any]], **options: Any) -> Collator:
    files = SampleFiles([write(tmp_path / "a.parquet", samples)])
    return Collator(files, files.index(Limits(VOCAB_SIZE, 100, OPENING.lengths())), OPENING, **options)


def test_divergence_of_the_whole_vocabulary_is_kl() -> None:
    teacher, student = torch.randn(2, 5, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)).unbind()
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert (divergence(Soft.of_logits(teacher, VOCAB_SIZE), student) - expected).abs().max() < 1e-4


def test_divergence_counts_what_is_not_kept_as_one_token() -> None:
    teacher, student = torch.randn(2, 5, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)).unbind()
    soft = Soft.of_logits(teacher, 4)

    def coarse(logits: Tensor) -> Tensor:
        kept = logits.softmax(-1).gather(-1, soft.tokens)
        return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log()

    expected = F.kl_div(coarse(student), coarse(teacher), log_target=True, reduction="none").sum(-1)
    assert (divergence(soft, student) - expected).abs().max() < 1e-5


def test_sensitivity_is_what_block_mode_loses_clipped_and_one_on_average() -> None:
    # The teacher is sure of token 0; the student as sure, somewhat less, and sure of another.
    teacher = Soft.of_logits(torch.tensor([[9.0, 0, 0]]).expand(3, 3), 2)
    student = torch.tensor([[9.0, 0, 0], [1.0, 0, 0], [0.0, 30, 0]], requires_grad=True)
    weights = sensitivity(teacher, student, torch.zeros(3, dtype=torch.long), clip=2.0)
    lost = torch.tensor([0.0, 0.5514, 2.0])
    assert (weights - (1 + lost) / (1 + lost).mean()).abs().max() < 1e-3
    assert not weights.requires_grad
    assert torch.equal(sensitivity(teacher, student, torch.zeros(3, dtype=torch.long), clip=0.0), torch.ones(3))


@pytest.mark.parametrize("attention", ["dense", "segments"])
@pytest.mark.parametrize("encoding", [Encoding(), Encoding(lead=(5, 6, 7)), Encoding((), (4, 4), True)])
def test_a_row_s_loss_and_gradients_are_those_of_its_samples_alone(
    tmp_path: Path, encoding: Encoding, attention: str
) -> None:
    """Three questions over one context in block mode and a sample in full mode, in one row."""
    samples = [*random_samples(4, 3, group_size=3), *random_samples(5, 1)]
    collate = collator(tmp_path, samples, encoding=encoding)
    model, plain = tiny_model(attention), tiny_model()
    teacher = Teacher(copy.deepcopy(model), _always, collate, None, VOCAB_SIZE)
    batch = collate((Item("block", (0, 1, 2), 0), Item("full", (3,), 0)))
    logits = target_logits(model, batch)
    block = logits[batch.in_block]
    soft = teacher.soft(batch)
    weights = sensitivity(soft, block, batch.targets[batch.in_block], 2.0)
    loss = (weights * divergence(soft, block)).sum() + F.cross_entropy(logits, batch.targets, reduction="sum")
    loss.backward()

    own, divergences, losts = [], [], []
    for i in range(4):
        one = collate((Item("block" if i < 3 else "full", (i,), 0),))
        student = target_logits(plain, one)
        own.append(F.cross_entropy(student, one.targets, reduction="sum"))
        if i == 3:
            continue
        with torch.no_grad():
            taught = target_logits(plain, collate((Item("full", (i,), 0),))).log_softmax(-1)
        given = student.log_softmax(-1)
        divergences.append(F.kl_div(given, taught, log_target=True, reduction="none").sum(-1))
        losts.append((taught - given).gather(-1, one.targets[:, None])[:, 0].detach().clamp(0, 2))
    counts = 1 + torch.cat(losts)
    expected = (counts / counts.mean() * torch.cat(divergences)).sum() + sum(own)
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-3
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() < 1e-3


class _always:  # noqa: N801  # a context that changes nothing
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def test_a_block_behind_a_lead_in_is_the_two_encoded_alone_and_moved(tmp_path: Path) -> None:
    block, lead = [14, 15, 16], (5, 6)
    collate = collator(tmp_path, [sample("a", [[11, 12, 13], block, [17]], [18])], encoding=Encoding(lead))
    model = tiny_model()
    batch = collate((Item("block", (0,), 0),))
    kept: dict[str, Tensor] = {}
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda _m, _i, out: kept.update(rows=out[0] if isinstance(out, tuple) else out))
    target_logits(model, batch)
    rows = kept["rows"].reshape(-1, 16)[5:8]
    model(input_ids=torch.tensor([[*lead, *block]]), use_cache=False)
    alone = kept["rows"].reshape(-1, 16)[2:]
    assert (rows - alone).abs().max() < 1e-5


@pytest.mark.parametrize("encoding", [Encoding(lead=(5, 6, 7)), Encoding((), (4, 4), True)])
def test_greedy_answer_forgets_lead_ins(tmp_path: Path, encoding: Encoding) -> None:
    """Each token is the likeliest of a pass over prompt and answer so far."""
    prompt = [[11, 12], [13, 14, 15], [16], [17, 18]]
    model = tiny_model()
    collate = collator(tmp_path, [sample("a", prompt, [19])], encoding=encoding)
    answer = greedy_answer(model, collate((Item("block", (0,), 0),)), set(), torch.device("cpu"))
    (tmp_path / "b").mkdir()
    longer = collator(tmp_path / "b", [sample("a", prompt, answer)], encoding=encoding)
    logits = target_logits(model, longer((Item("block", (0,), 0),)))
    assert answer == logits.argmax(-1).tolist()


def test_teacher_asks_once_and_takes_nothing_of_another_teacher(tmp_path: Path) -> None:
    collate = collator(tmp_path, random_samples(4, 4, group_size=2))
    model = tiny_model()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    batch = collate((Item("block", (0, 1), 0), Item("full", (0, 1), 0), Item("block", (2, 3), 0)))
    first = Teacher(model, _always, collate, SoftStore(tmp_path / "t.sqlite", "a"), 8).soft(batch)
    again = Teacher(model, _always, collate, SoftStore(tmp_path / "t.sqlite", "a"), 8).soft(batch)
    assert (len(calls), len(first.tokens)) == (1, int(batch.in_block.sum()))
    assert torch.equal(first.tokens, again.tokens)
    assert (first.log_probs - again.log_probs).abs().max() < 1e-2, "kept in 16 bit"
    Teacher(model, _always, collate, SoftStore(tmp_path / "t.sqlite", "b"), 8).soft(batch)
    assert len(calls) == 2
    assert len(Teacher(model, _always, collate, None, 8).soft(replace(batch, row=())).tokens) == 0


@pytest.mark.parametrize("teacher", ["start", "base"])
def test_a_run_goes_on_from_an_adapter_and_distils_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: str
) -> None:
    base = run_settings(tmp_path, training={"steps": 1}, run_name="base")
    train(parse_settings(base))
    model = {"path": str(tmp_path / "runs" / "base" / "export"), "prefix": "w7 w8"}
    lora: dict[str, Any] = {"rank": 2, "alpha": 4.0}
    first = {**base, "run_name": "first", "model": model, "lora": lora, "training": {**base["training"], "steps": 3}}
    train(parse_settings(first))
    adapter = tmp_path / "runs" / "first" / "checkpoint-3"
    capsys.readouterr()
    second = {
        **first,
        "run_name": "second",
        "model": {**model, "repair": "lead", "lead": "w9 w10"},
        "data": {**base["data"], "full_share": 0.3, "block_dropout": 0.5},
        "lora": {**lora, "adapter": str(adapter)},
        "distillation": {"teacher": teacher},
        "checkpoints": {"every_steps": 2, "keep": 9},
    }

    def steps() -> dict[int, float]:
        train(parse_settings(second), progress_target="-")
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {event["step"]: event["loss"] for event in events if event["event"] == "step"}

    whole = steps()
    folder = tmp_path / "runs" / "second"
    last = folder / "checkpoint-3"
    assert not (last / "teacher").exists()
    config = json.loads((last / "adapter_config.json").read_text())["block_attention"]
    assert config["repair"] == 'lead="w9 w10"'
    old, new = (load_file(path / "adapter_model.safetensors") for path in (adapter, last))
    assert old.keys() == new.keys()
    assert all((new[name] - old[name]).abs().max() < 0.2 for name in old), "it began there"
    assert any((new[name] - old[name]).abs().max() > 0 for name in old)
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    assert steps() == {3: whole[3]}, "with the same teacher, from a checkpoint"


def test_a_run_s_loss_is_the_answer_s_and_the_divergence_as_they_are_weighted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = run_settings(tmp_path, training={"steps": 1}, run_name="base", export={"dtype": "float32"})
    train(parse_settings(settings))
    base = str(tmp_path / "runs" / "base" / "export")
    samples = random_samples(4, 3, group_size=3)
    settings = {
        **settings,
        "run_name": "distilled",
        "model": {"path": base, "prefix": ""},
        "data": {**settings["data"], "train": [str(write(tmp_path / "three.parquet", samples))], "modes": ["block"]},
        "training": {**settings["training"], "rows_per_step": 1},
        "lora": {"rank": 2},
        "distillation": {"weight": 2.0, "answer_weight": 0.5, "clip": 0.0, "top_k": VOCAB_SIZE},
        "export": None,
    }
    capsys.readouterr()
    train(parse_settings(settings), progress_target="-")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    register_attention()
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=implementation_name("dense")).eval()
    files = SampleFiles([tmp_path / "three.parquet"])
    opening = Opening(0, ())
    collate = Collator(files, files.index(Limits(VOCAB_SIZE, 100, opening.lengths())), opening)
    losses: list[Tensor] = []
    for i in range(3):
        batch = collate((Item("block", (i,), 0),))
        student, teacher = (
            target_logits(model, one).log_softmax(-1) for one in (batch, collate((Item("full", (i,), 0),)))
        )
        own = F.nll_loss(student, batch.targets, reduction="none")
        losses.append(0.5 * own + 2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1))
    expected = torch.cat(losses).mean().item()
    assert abs(next(e["loss"] for e in told if e["event"] == "step") - expected) < 5e-3


@pytest.mark.parametrize("teacher", ["start", "base"])
def test_as_teacher_is_what_the_run_began_with(tmp_path: Path, teacher: str) -> None:
    settings = run_settings(tmp_path, training={"steps": 1}, run_name="base", export={"dtype": "float32"})
    train(parse_settings(settings))
    path = str(tmp_path / "runs" / "base" / "export")
    model, tokenizer = {"path": path}, load_tokenizer(path)
    lora: dict[str, Any] = {"rank": 2, "alpha": 4.0}
    train(parse_settings({**settings, "run_name": "lora", "model": model, "lora": lora, "export": None}))

    def load(adapter: str | None, keeps_start: bool) -> Any:
        adapted = LoraSettings(**lora, adapter=adapter)
        read = ModelSettings(path=path)
        return load_model(
            read, "dense", lora=adapted, dtype=torch.float32, tokenizer=tokenizer, keeps_start=keeps_start
        ).eval()

    adapter = str(next((tmp_path / "runs" / "lora").glob("checkpoint-*")))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        began = load(adapter if teacher == "start" else None, keeps_start=False)(ids).logits
        student = load(adapter, keeps_start=teacher == "start")
        trained = [weight for weight in student.parameters() if weight.requires_grad]
        before = fingerprint(student)
        for weight in trained:
            weight += 0.1
        assert fingerprint(student) == before, "it goes by what is not trained"
        moved = student(ids).logits
        with as_teacher(student):
            assert torch.equal(student(ids).logits, began)
        assert torch.equal(student(ids).logits, moved)
        assert (moved - began).abs().max() > 1e-2
    assert all(weight.requires_grad for weight in trained)
