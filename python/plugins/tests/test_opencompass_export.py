"""Predictions in OpenCompass' format, from lines as the harness logs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval_block_attention.opencompass_export import main, opencompass_predictions

GENERATED: list[dict[str, Any]] = [
    {
        "doc_id": doc_id,
        "doc": {"question": "1+1"},
        "target": "2",
        "arguments": {"gen_args_0": {"arg_0": f"Q: {doc_id}\nA:", "arg_1": {"until": ["\n"], "temperature": 0}}},
        "resps": [[f" It is {doc_id}."]],
        "filtered_resps": [str(doc_id)],
        "filter": name,
    }
    for name in ("strict-match", "flexible-extract")
    for doc_id in (1, 0)
]
SCORED: dict[str, Any] = {
    "doc_id": 4,
    "target": "1",
    "arguments": {f"gen_args_{i}": {"arg_0": "Q: a\nA:", "arg_1": f" {x}"} for i, x in enumerate("AB")},
    "resps": [[["-2.5", "False"]], [[-0.5, True]]],
    "filter": "none",
}


def test_opencompass_predictions_of_generated_answers() -> None:
    assert opencompass_predictions(GENERATED) == {
        "0": {"origin_prompt": "Q: 0\nA:", "prediction": " It is 0.", "gold": "2"},
        "1": {"origin_prompt": "Q: 1\nA:", "prediction": " It is 1.", "gold": "2"},
    }


def test_opencompass_predictions_of_scored_choices() -> None:
    assert opencompass_predictions([SCORED]) == {
        "0": {
            "label: A": {"testing input": "Q: a\nA:", "prompt": "Q: a\nA: A", "Loglikelihood": -2.5},
            "label: B": {"testing input": "Q: a\nA:", "prompt": "Q: a\nA: B", "Loglikelihood": -0.5},
            "prediction": "B",
            "gold": "B",
        }
    }


def test_opencompass_predictions_refuses_what_is_no_log() -> None:
    with pytest.raises(ValueError, match='wanted "doc_id"'):
        opencompass_predictions([{"doc_id": 1}])
    with pytest.raises(ValueError, match="document 4 is there twice"):
        opencompass_predictions([SCORED, SCORED])


def test_main_writes_a_file_and_tells_of_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, output = tmp_path / "samples.jsonl", tmp_path / "predictions" / "model" / "gsm8k.json"
    samples.write_text("".join(json.dumps(line) + "\n" for line in GENERATED), encoding="utf-8")
    arguments = ["--samples", str(samples), "--output", str(output)]
    assert main(arguments) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["1"]["prediction"] == " It is 1."
    capsys.readouterr()
    samples.write_text('{"doc_id": 0}\nno json\n', encoding="utf-8")
    assert main(arguments) == 1
    assert "line 2 is no JSON" in capsys.readouterr().err
    samples.unlink()
    assert main(arguments) == 1
    assert "No such file or directory" in capsys.readouterr().err
