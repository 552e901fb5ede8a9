"""The exported folder in the engine: log-probabilities in both modes against PyTorch's, by `score`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import ARCHITECTURE, run_settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from block_attention_trainer.attention import register_attention
from block_attention_trainer.layout import MODES, Layout, Mode, shared_context
from block_attention_trainer.models import load_tokenizer, opening_of
from block_attention_trainer.settings import parse_settings
from block_attention_trainer.train import train

CLI = Path(__file__).parent.parent.parent / "dist" / "cli" / "main.js"
SAMPLES = 20
BOUNDS = {"f32": 1e-3, "f16": 5e-2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    text = [
        f"- Title: film {i}\nThe director of film {i} is person {i * 7 % 13}, born in {1900 + i}.\n" for i in range(200)
    ]
    (folder / "text.txt").write_text("".join(text))
    settings = run_settings(
        folder,
        tokenizer={
            "text": [str(folder / "text.txt")],
            "vocab_size": 320,
            "special_tokens": ["<|pad|>", "<|eos|>", "<|bos|>"],
            "bos_token": "<|bos|>",
        },
        data={"text": [str(folder / "text.txt")], "train": [], "modes": ["full"]},
        training={"steps": 2},
        export={"dtype": "float32"},
    )
    settings["model"] = {
        "architecture": {**ARCHITECTURE, "hidden_size": 64, "head_dim": 32},
        "prefix": "[Block-Attention]",
    }
    train(parse_settings(settings), progress_target=None)
    return folder / "runs" / "run" / "export"


def torch_scores(folder: Path, line: dict[str, Any], mode: Mode) -> list[float]:
    """By the definition: blocks tokenized alone, BOS, the prefix in block mode, one pass over all."""
    register_attention()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="block_cells").eval()

    def ids(text: str) -> list[int]:
        return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]

    opening = [tokenizer.bos_token_id] + (ids("[Block-Attention]") if mode == "block" else [])
    blocks, continuation = [ids(text) for text in line["blocks"]], ids(line["continuation"])
    whole = [i for part in (opening, *blocks, continuation) for i in part]
    lengths = [len(block) for block in blocks]
    segments = shared_context(len(opening), lengths[:-1], [lengths[-1] + len(continuation)], mode)
    layout = Layout.of_rows([[segments]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole]), position_ids=layout.position, layout=layout).logits[0]
    first = len(whole) - len(continuation)
    scores = logits[first - 1 : -1].log_softmax(-1)
    return [float(scores[i, token]) for i, token in enumerate(continuation)]


@pytest.mark.skipif(not CLI.is_file() or shutil.which("node") is None, reason="the engine is not built: npm run build")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_the_engine_scores_as_pytorch_does(exported: Path, tmp_path: Path, mode: Mode, kv_type: str) -> None:
    lines = [
        {
            "blocks": [
                *(f"- Title: film {i + k}\nThe director of film {i + k} is person {k}.\n" for k in range(1 + i % 4)),
                f"Question: who is the director of film {i}?\n",
            ],
            "continuation": f"The director of film {i} is person {i % 13}.",
        }
        for i in range(SAMPLES)
    ]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["node", str(CLI), "score", "--input", str(path), "--json", "--model", str(exported), "--mode", mode]
    options = ["--weights", "f32", "--kv-type", kv_type, "--threads", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    got = [json.loads(line)["logprobs"] for line in done.stdout.splitlines()]
    assert len(got) == SAMPLES
    worst = 0.0
    for line, scores in zip(lines, got, strict=True):
        expected = torch_scores(exported, line, mode)
        assert len(scores) == len(expected)
        worst = max(worst, *(abs(a - b) for a, b in zip(scores, expected, strict=True)))
    assert worst < BOUNDS[kv_type]


CONTRADICTING = Path(__file__).parents[3] / "shared" / "cases" / "k-addbos-nopost"
"""A folder whose config asks for BOS, and whose post-processor puts none."""


@pytest.mark.skipif(not CLI.is_file() or shutil.which("node") is None, reason="the engine is not built: npm run build")
@pytest.mark.skipif(not CONTRADICTING.is_dir(), reason=f"{CONTRADICTING} is not there")
def test_engine_and_trainer_put_the_same_bos_before_and_after_a_step(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["node", str(CLI), *args], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def bos_and_warnings(folder: Path) -> tuple[int | None, list[str]]:
        info = json.loads(run("info", "--model", str(folder), "--json").stdout)
        return info["tokenizer"]["bos_token_id"], info["warnings"]

    before, warnings = bos_and_warnings(CONTRADICTING)
    assert before is not None
    assert len(warnings) == 1
    assert '"add_bos_token": true' in warnings[0]
    lines, packed = tmp_path / "train.jsonl", tmp_path / "train.parquet"
    messages = [{"role": "user", "content": "the question of"}, {"role": "assistant", "content": "an answer"}]
    lines.write_text((json.dumps({"messages": messages}) + "\n") * 8)
    run("data", "pack", "--model", str(CONTRADICTING), "--input", str(lines), "--output", str(packed))
    settings = run_settings(
        tmp_path,
        data={"train": [str(packed)], "max_tokens": 200},
        packing={"tokens_per_row": 256},
        training={"steps": 1, "rows_per_step": 2},
    )
    settings["model"] = {"path": str(CONTRADICTING)}
    train(parse_settings(settings), progress_target=None)
    exported = tmp_path / "runs" / "run" / "export"
    assert opening_of(load_tokenizer(str(CONTRADICTING)), "").bos == before
    assert opening_of(load_tokenizer(str(exported)), "").bos == before
    assert bos_and_warnings(exported) == (before, [])
