import io
import json
from pathlib import Path

import pytest
from factory import run_settings
from transformers import AutoTokenizer

from block_attention_trainer.__main__ import main
from block_attention_trainer.export import refuse_loss
from block_attention_trainer.models import ModelError
from block_attention_trainer.progress import Progress, open_progress


def test_main_tells_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith('error: Cannot read "')
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(run_settings(tmp_path)))
    assert main(["train", "--config", str(path), "--set", "training.speed=1"]) == 1
    assert 'there is no setting "training.speed"' in capsys.readouterr().err
    assert main(["train", "--config", str(path), "--set", 'data.train=["nowhere.parquet"]']) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: Cannot read "nowhere.parquet"')
    assert error.count("\n") == 1
    assert main(["train", "--config", str(path), "--progress-json", "77"]) == 1
    assert 'Cannot use "--progress-json 77": wanted "-" or an open file descriptor' in capsys.readouterr().err
    assert main(["train", "--config", str(path), "--set", "data.max_tokens=10"]) == 1
    assert "tokens with BOS and prefix, at most 10 are allowed" in capsys.readouterr().err


def test_main_trains_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(run_settings(tmp_path, training={"steps": 2}, export=None)))
    assert main(["train", "--config", str(path)]) == 0
    assert "step 2/2  loss " in capsys.readouterr().out
    checkpoint = tmp_path / "runs" / "run" / "checkpoint-2"
    out = tmp_path / "out"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--dtype", "float16"]) == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    assert main(["export", "--checkpoint", str(tmp_path), "--out", str(out)]) == 1
    assert "Cannot export" in capsys.readouterr().err
    assert out.is_dir()


def test_export_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(model)
    for folder, why in [
        (mine, "it is no folder of a model"),
        (mine / "letter.txt", "it is no folder"),
        (tmp_path / "link", "it is no folder"),
        (checkpoint, "which is read, lies in it"),
        (tmp_path / "run", "which is read, lies in it"),
        (checkpoint.parent / ".." / "run", "which is read, lies in it"),
    ]:
        with pytest.raises(ModelError, match=why):
            refuse_loss(folder, [str(checkpoint)])
    inside = tmp_path / "model.unfinished"
    with pytest.raises(ModelError, match="which is read, lies in it"):
        refuse_loss(model, [str(inside / "checkpoint-1")])
    for folder in (model, tmp_path / "new", checkpoint / "export"):
        refuse_loss(folder, [str(checkpoint)])


def test_main_trains_a_tokenizer_alone(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three\n" * 50)
    settings = run_settings(tmp_path, tokenizer={"text": [str(tmp_path / "text.txt")], "vocab_size": 270})
    settings["model"].pop("tokenizer")
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    assert main(["train-tokenizer", "--config", str(path), "--out", str(tmp_path / "made")]) == 0
    made = (tmp_path / "made" / "tokenizer.json").read_bytes()
    again = ["train-tokenizer", "--config", str(path), "--out", str(tmp_path / "made")]
    assert main(again) == 1
    assert main([*again, "--force"]) == 0
    assert (tmp_path / "made" / "tokenizer.json").read_bytes() == made
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.decode(tokenizer.encode("three\n\ttwo é")) == "three\n\ttwo é"
    assert len(tokenizer) <= 270


def test_progress_survives_a_reader_that_has_gone() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Gone(), as_json=True)
    progress.tell("step", step=1)
    progress.tell("step", step=2)


def test_open_progress_tells_from_the_main_process_alone(capsys: pytest.CaptureFixture[str]) -> None:
    open_progress("-", is_main=False).tell("start")
    assert capsys.readouterr().out == ""
    open_progress("-", is_main=True).tell("evaluation", metrics={"a": 1.0}, nothing=None)
    assert json.loads(capsys.readouterr().out) == {"event": "evaluation", "metrics": {"a": 1.0}}
