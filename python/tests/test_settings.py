import json
from pathlib import Path
from typing import Any

import pytest

from block_attention_trainer.settings import SettingsError, json_schema, read_settings

ROOT = Path(__file__).parent.parent
CASES: dict[str, Any] = json.loads((ROOT / "tests" / "wrong_settings.json").read_text())
"""src/train/settings.test.ts has the same: what is refused here is to be refused before there is an environment."""
SMALLEST: dict[str, Any] = CASES["smallest"]


def test_the_schema_file_is_current() -> None:
    assert (ROOT / "settings.schema.json").read_text() == json_schema(), "run python -m block_attention_trainer schema"


@pytest.mark.parametrize("name", ["block_ft", "rag", "sft", "block_llama3"])
def test_ready_configurations_are_read_and_name_their_files(name: str) -> None:
    settings = read_settings(ROOT / "configs" / f"{name}.json")
    assert settings.run_name == name
    assert settings.data.train
    assert settings.data.evaluation
    assert settings.output_folder


def test_ready_configurations_have_the_recipe_s_values() -> None:
    read = {
        name: read_settings(ROOT / "configs" / f"{name}.json") for name in ("block_ft", "rag", "sft", "block_llama3")
    }
    assert {name: s.optimizer.learning_rate for name, s in read.items()} == {
        "block_ft": 2e-6,
        "rag": 2e-6,
        "sft": 5e-6,
        "block_llama3": 2e-5,
    }
    assert {name: s.training.rows_per_step for name, s in read.items()} == {
        "block_ft": 8 * 16,
        "rag": 8 * 16,
        "sft": 128,
        "block_llama3": 64,
    }
    assert read["sft"].training.epochs == 2
    assert read["block_llama3"].schedule.warmup_steps == 20
    assert read["block_llama3"].data.loss_on_prompt
    assert all(s.training.loss_divisor == "one" and s.data.max_tokens == 4096 for s in read.values())


@pytest.mark.parametrize("case", CASES["wrong"], ids=lambda case: " ".join(case["set"]))
def test_read_settings_names_the_key(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(SMALLEST))
    with pytest.raises(SettingsError) as caught:
        read_settings(path, case["set"])
    assert str(caught.value).startswith(f'Cannot use "{path}": {case["says"]}')
    assert "\n" not in str(caught.value)


def test_read_settings_puts_overrides_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(SMALLEST))
    settings = read_settings(path, ["training.steps=7", "run_name=b", "evaluation.answer_after= is"])
    assert (settings.training.steps, settings.run_name, settings.evaluation.answer_after) == (7, "b", " is")
    with pytest.raises(SettingsError, match=r'Cannot use "--set training": wanted section.key=value'):
        read_settings(path, ["training"])
    with pytest.raises(SettingsError, match='"run_name" is no section'):
        read_settings(path, ["run_name.x=1"])


def test_read_settings_refuses_what_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SettingsError, match=r'^Cannot read ".*a.json": '):
        read_settings(tmp_path / "a.json")
