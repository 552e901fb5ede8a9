"""Whole runs of models of a few thousand weights."""

import json
import runpy
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import ARCHITECTURE, random_samples, run_settings, write
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from block_attention_trainer.__main__ import main
from block_attention_trainer.checkpoints import UNFINISHED, publish
from block_attention_trainer.layout import MODES
from block_attention_trainer.models import ModelError
from block_attention_trainer.settings import SettingsError, parse_settings
from block_attention_trainer.train import train
from block_attention_trainer.trainer import NonFiniteLossError

ROOT = Path(__file__).parent.parent


def run(capsys: pytest.CaptureFixture[str], settings: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    assert train(parse_settings(settings), progress_target="-", **options) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in events if e["event"] == "step"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_train_goes_on_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str], optimizer: str) -> None:
    settings = run_settings(
        tmp_path,
        model={"architecture": {**ARCHITECTURE, "attention_dropout": 0.1}},
        optimizer={"name": optimizer},
        checkpoints={"every_steps": 2, "keep": 9},
        schedule={"name": "cosine"},
    )
    whole = losses(run(capsys, settings))
    folder = tmp_path / "runs" / "run"
    weights = load_file(folder / "checkpoint-6" / "model.safetensors")
    assert list(whole) == [1, 2, 3, 4, 5, 6]
    for step in (4, 6):
        shutil.rmtree(folder / f"checkpoint-{step}")
    # What a killed run leaves behind.
    (folder / UNFINISHED / "checkpoint-4").mkdir(parents=True)
    rest = losses(run(capsys, settings))
    assert rest == {step: loss for step, loss in whole.items() if step > 2}
    again = load_file(folder / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not (folder / UNFINISHED).exists()


def test_a_checkpoint_that_fails_midway_loses_only_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = run_settings(tmp_path, checkpoints={"every_steps": 2})

    def fail(folder: Path, name: str, keep: int) -> Path:
        if name == "checkpoint-4":
            raise OSError("no space left")
        return publish(folder, name, keep)

    monkeypatch.setattr("block_attention_trainer.trainer.publish", fail)
    with pytest.raises(OSError, match="no space left"):
        run(capsys, settings)
    folder = tmp_path / "runs" / "run"
    assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    capsys.readouterr()
    assert list(losses(run(capsys, settings))) == [3, 4, 5, 6]


def test_a_run_that_is_done_is_only_exported_again_and_goes_on_where_more_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, run_settings(tmp_path, training={"steps": 2}))
    weights = load_file(tmp_path / "runs" / "run" / "checkpoint-2" / "model.safetensors")
    events = run(capsys, run_settings(tmp_path, training={"steps": 2}, export={"dtype": "float32"}))
    assert [e["event"] for e in events if e["event"] != "stage"] == ["start", "export", "end"]
    assert events[-1]["step"] == 2
    exported = load_file(tmp_path / "runs" / "run" / "export" / "model.safetensors")
    assert all(torch.equal(value, exported[name]) for name, value in weights.items())
    assert list(losses(run(capsys, run_settings(tmp_path, training={"steps": 3})))) == [3]


def test_train_tells_what_goes_on_before_the_first_step_and_after_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [e.get("stage", e["event"]) for e in run(capsys, run_settings(tmp_path, training={"steps": 2}))]
    assert told[: told.index("step")] == [
        "Preparing the tokenizer",
        "Loading the model",
        "Checking the samples",
        "Packing samples into rows",
        "start",
        "First step, which prepares those after it",
    ]
    assert told.count("First step, which prepares those after it") == 1
    assert told[-5:] == ["Writing a checkpoint", "checkpoint", "Exporting", "export", "end"]


def test_train_refuses_to_go_on_with_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = run_settings(tmp_path, training={"steps": 2})
    run(capsys, settings)
    with pytest.raises(SettingsError, match='"seed" was 42, now it is 7; the order of samples would be another'):
        train(parse_settings(run_settings(tmp_path, training={"steps": 2, "seed": 7})))
    with pytest.raises(SettingsError, match=r'Cannot start anew: ".*run" has checkpoints'):
        train(parse_settings(settings), resume=False)


@pytest.mark.parametrize("divisor", ["one", "tokens"])
def test_a_step_is_the_same_packed_and_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], divisor: str
) -> None:
    """One epoch in one step: all samples in both modes, in a few rows or in one each, through the whole trainer."""
    weights = []
    for tokens_per_row, rows in ((None, 80), (4096, 1), (120, 12)):
        settings = run_settings(
            tmp_path,
            run_name=f"rows-{rows}",
            data={"shuffled_row_groups": 99},
            packing={"tokens_per_row": tokens_per_row},
            optimizer={"learning_rate": 0.01, "max_gradient_norm": 0.0, "epsilon": 1.0},
            training={"steps": None, "epochs": 1.0, "rows_per_step": rows, "loss_divisor": divisor},
            export=None,
        )
        events = run(capsys, settings)
        step = next(e for e in events if e["event"] == "step")
        if tokens_per_row == 120:
            assert next(e for e in events if e["event"] == "start")["rowsPerEpoch"] <= rows
        weights.append(
            (step["loss"], load_file(tmp_path / "runs" / f"rows-{rows}" / "checkpoint-1" / "model.safetensors"))
        )
    for loss, changed in weights[1:]:
        assert abs(loss - weights[0][0]) < 1e-5
        for name, value in changed.items():
            assert (value - weights[0][1][name]).abs().max() < 1e-5, name


def test_evaluation_shows_both_modes_and_their_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = run_settings(
        tmp_path,
        data={"evaluation": [str(tmp_path / "dev.parquet")]},
        evaluation={"every_steps": 4, "at_start": True, "show_answers": 2},
    )
    events = run(capsys, settings)
    evaluations = [e for e in events if e["event"] == "evaluation"]
    assert [e["step"] for e in evaluations] == [0, 4, 6]
    m = evaluations[-1]["metrics"]
    assert m["full_minus_block_loss"] == pytest.approx(m["full_loss"] - m["block_loss"])
    assert {"block_token_accuracy", "full_first_token_accuracy", "block_answer_accuracy"} <= m.keys()
    assert evaluations[-1]["metrics"]["block_loss"] != evaluations[0]["metrics"]["block_loss"]
    assert len([e for e in events if e["event"] == "answer"]) == 12


def test_training_on_spans_learns_and_its_loss_is_the_oracles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_settings(tmp_path)
    samples = random_samples(3, 24, group_size=2, spans=True)
    path = str(write(tmp_path / "spans.parquet", samples, block_attention_packing="2"))
    settings = run_settings(
        tmp_path,
        data={"train": [path], "evaluation": [path]},
        training={"steps": 40},
        evaluation={"at_start": True},
        export={"dtype": "float32"},
    )
    first, last = (e["metrics"] for e in run(capsys, settings) if e["event"] == "evaluation")
    assert last["block_loss"] < first["block_loss"] / 2

    monkeypatch.syspath_prepend(ROOT / "oracles")
    oracle = runpy.run_path(str(ROOT / "oracles" / "block_attention_oracle.py"))
    folder = tmp_path / "runs" / "run" / "export"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def loss(mode: str) -> float:
        logprobs: list[float] = []
        for row in samples:
            ends = np.cumsum([0, *row["span_lengths"]])
            blocks = [row["input_ids"][start:end] for start, end in pairwise(ends)]
            blocks[0] = [0, *([7, 8] if mode == "block" else []), *blocks[0]]
            case = {"name": row["sample_id"], "mode": mode, "positionReencoding": True, "blockTokenIds": blocks}
            case |= {"isGlobal": row["is_global"], "continuationTokenIds": row["input_ids"][ends[-1] :]}
            logprobs += oracle["score"](model, case)["logprobs"]
        return -sum(logprobs) / len(logprobs)

    for mode in MODES:
        assert abs(last[f"{mode}_loss"] - loss(mode)) < 1e-5

    # A wrong mask is far from it: earlier global spans without the local ones, local spans with the global ones.
    visible = oracle["visible"]

    def blind(span: list[int], is_global: list[bool], mode: str) -> Tensor:
        passed_over = [[is_global[q] and q != span[-1] and not is_global[k] for k in span] for q in span]
        return visible(span, is_global, mode) & ~torch.tensor(passed_over)

    def leaking(span: list[int], is_global: list[bool], mode: str) -> Tensor:
        added = [[k < q and is_global[k] for k in span] for q in span]
        return visible(span, is_global, mode) | torch.tensor(added)

    for wrong in (blind, leaking):
        oracle["score"].__globals__["visible"] = wrong
        assert abs(last["block_loss"] - loss("block")) > 1e-2


def test_training_learns_and_the_answers_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = run_settings(tmp_path, data={"evaluation": [str(tmp_path / "train.parquet")]}, training={"steps": 150})
    metrics = next(e for e in run(capsys, settings) if e["event"] == "evaluation")["metrics"]
    assert metrics["block_answer_accuracy"] > 0.9
    assert metrics["full_answer_accuracy"] > 0.9
    assert metrics["full_first_token_accuracy"] > 0.9


def test_a_loss_that_is_no_number_stops_and_saves_the_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, run_settings(tmp_path, training={"steps": 1}))
    exported = tmp_path / "runs" / "run" / "export"
    model = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[:, 0] = torch.nan
    model.save_pretrained(exported)
    settings = run_settings(tmp_path, run_name="bad")
    settings["model"] = {"path": str(exported)}
    with pytest.raises(
        NonFiniteLossError, match=r'^Stopped in step 1: the loss is nan; the batch of "s\d+".* is saved as'
    ):
        train(parse_settings(settings))
    saved = json.loads((tmp_path / "runs" / "bad" / "bad-batch-step-1-process-0.json").read_text())
    assert len(saved["targets"]) == len(saved["predictors"]) > 0
    assert not list((tmp_path / "runs" / "bad").glob("checkpoint-*"))


def test_export_says_how_it_was_trained_and_loads_in_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, run_settings(tmp_path, export={"dtype": "float32"}))
    folder = tmp_path / "runs" / "run"
    config = json.loads((folder / "export" / "config.json").read_text())
    assert config["block_attention"] == {"version": 1, "prefix": "w7 w8", "modes": ["block", "full"]}
    model = AutoModelForCausalLM.from_pretrained(folder / "export")
    trained = load_file(folder / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items() if name in trained)
    assert AutoTokenizer.from_pretrained(folder / "export")("w5").input_ids == [0, 5]


def test_lora_trains_adapters_alone_and_export_merges_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, run_settings(tmp_path, training={"steps": 1}, export={"dtype": "float32"}))
    base = tmp_path / "runs" / "run" / "export"
    settings = run_settings(tmp_path, run_name="lora", lora={"rank": 2, "alpha": 4.0}, export={"dtype": "float32"})
    settings["model"] = {"path": str(base)}
    settings["checkpoints"] = {"every_steps": 3, "keep": 5}
    events = run(capsys, settings)
    start = next(e for e in events if e["event"] == "start")
    assert start["trained"] < start["weights"] / 2
    folder = tmp_path / "runs" / "lora"
    merged = AutoModelForCausalLM.from_pretrained(folder / "export")
    assert merged.config.block_attention == {"version": 1, "prefix": "w7 w8", "modes": ["block", "full"]}
    marks = json.loads((folder / "checkpoint-6" / "adapter_config.json").read_text())["block_attention"]
    assert marks == merged.config.block_attention
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "checkpoint-6")
    ids = torch.arange(20)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert (merged(ids).logits - adapted(ids).logits).abs().max() < 1e-5
    assert (merged(ids).logits - plain).abs().max() > 1e-3
    shutil.rmtree(folder / "checkpoint-6")
    again = losses(run(capsys, settings))
    assert again == {step: loss for step, loss in losses(events).items() if step > 3}


def test_export_of_an_adapter_alone_is_what_was_trained_in_another_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, run_settings(tmp_path, training={"steps": 1}))
    base = tmp_path / "runs" / "run" / "export"
    settings = run_settings(tmp_path, run_name="lora", lora={"rank": 2, "alpha": 4.0}, export=None)
    settings["model"] = {"path": str(base)}
    run(capsys, settings)
    checkpoint, out = tmp_path / "runs" / "lora" / "checkpoint-6", tmp_path / "adapter"
    for _ in range(2):
        assert main(["export", "--checkpoint", str(checkpoint), "--adapter", "--out", str(out)]) == 0
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (checkpoint, out))
    assert {name: weight.to(torch.bfloat16).tolist() for name, weight in before.items()} == {
        name: weight.tolist() for name, weight in after.items()
    }
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (checkpoint, out)]
    assert configs[1] == {**configs[0], "base_model_name_or_path": "export"}
    assert configs[1]["block_attention"]["modes"] == ["block", "full"]
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert main(["export", "--checkpoint", str(checkpoint), "--adapter", "--out", str(base)]) == 1
    assert "it is no folder of a model" in capsys.readouterr().err
    assert main(["export", "--checkpoint", str(base), "--adapter", "--out", str(tmp_path / "b")]) == 1
    assert "it has no adapter" in capsys.readouterr().err


def test_from_nothing_a_tokenizer_and_a_model_of_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"The director of film {i} is person {i * 7 % 13}.\n" for i in range(300)]
    (tmp_path / "text.txt").write_text("".join(lines))
    settings = run_settings(
        tmp_path,
        tokenizer={"text": [str(tmp_path / "text.txt")], "vocab_size": 300},
        data={"text": [str(tmp_path / "text.txt")], "train": [], "modes": ["full"]},
        training={"steps": 30},
    )
    settings["model"] = {"architecture": {**ARCHITECTURE, "initializer_range": 0.02}}
    told = losses(run(capsys, settings))
    assert told[30] < 0.75 * told[1]
    folder = tmp_path / "runs" / "run" / "export"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "The director of film 12\nis person 3."
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids).count("1") == 1, "digits stand alone"
    assert json.loads((folder / "config.json").read_text())["block_attention"]["modes"] == ["full"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_ends(tmp_path: Path, number: signal.Signals, code: int) -> None:
    settings = run_settings(tmp_path, training={"steps": 100_000}, export=None)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "block_attention_trainer", "train", "--config", str(path), "--progress-json", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "step":
                break
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    events = [json.loads(line) for line in out.splitlines()]
    last = max(e["step"] for e in events if "step" in e)
    assert events[-1] == {"event": "end", "why": number.name, "step": last}
    assert (tmp_path / "runs" / "run" / f"checkpoint-{last}" / "trainer_state.json").is_file()


def test_bfloat16_and_gradient_checkpointing_follow_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for name, training in (
        ("plain", {"precision": "float32"}),
        ("bf16", {"precision": "bfloat16", "gradient_checkpointing": True}),
    ):
        told.append(run(capsys, run_settings(tmp_path, run_name=name, training={"steps": 4, **training}, export=None)))
    assert [next(e for e in events if e["event"] == "start")["precision"] for events in told] == ["float32", "bfloat16"]
    plain, low = (losses(events) for events in told)
    assert plain != low
    assert list(low.values()) == pytest.approx(list(plain.values()), abs=0.1)


def test_a_run_goes_on_in_the_precision_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement of "auto" may come out otherwise the second time."""
    told = []
    for measured, steps in (("bfloat16", 2), ("float32", 4)):
        monkeypatch.setattr("block_attention_trainer.train.faster_precision", lambda *_, faster=measured: faster)
        training = {"precision": "auto", "steps": steps}
        events = run(capsys, run_settings(tmp_path, training=training, export=None))
        told.append(next(e["precision"] for e in events if e["event"] == "start"))
    assert told == ["bfloat16", "bfloat16"]
    (tmp_path / "runs" / "run" / "settings.json").write_text('{"training": {"precision": "float8"}}', encoding="utf-8")
    settings = parse_settings(run_settings(tmp_path, training={"precision": "auto", "steps": 6}))
    with pytest.raises(ModelError, match='its precision is "float8", wanted one of auto, float32, bfloat16'):
        train(settings)


def test_tensorboard_has_losses_and_both_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(
        capsys,
        run_settings(tmp_path, data={"evaluation": [str(tmp_path / "dev.parquet")]}, logging={"tensorboard": True}),
    )
    events = EventAccumulator(str(tmp_path / "runs" / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss_per_token", "eval/block_loss", "eval/full_minus_block_loss"} <= set(events.Tags()["scalars"])


def test_train_says_what_is_not_installed_or_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r'Cannot use "logging.wandb": the package wandb is not installed'):
        train(parse_settings(run_settings(tmp_path, logging={"wandb": True})))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingsError, match=r'Cannot share "training.rows_per_step" among processes: 4 rows, 3 proc'):
        train(parse_settings(run_settings(tmp_path)))
