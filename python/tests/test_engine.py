"""The exported folder in the engine: log-probabilities in both modes against PyTorch's, by `score`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import ARCHITECTURE, run_settings
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
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


def torch_model(folder: Path) -> Any:
    register_attention()
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="block_cells").eval()


def torch_scores(folder: Path, line: dict[str, Any], mode: Mode, model: Any = None) -> list[float]:
    """By the definition: blocks tokenized alone, BOS, the prefix in block mode, one pass over all."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = model or torch_model(folder)

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
    lines = scored_lines(SAMPLES)
    got = engine_scores(exported, tmp_path, lines, mode, "--kv-type", kv_type)
    assert worst_distance(got, [torch_scores(exported, line, mode) for line in lines]) < BOUNDS[kv_type]


@pytest.mark.skipif(not CLI.is_file() or shutil.which("node") is None, reason="the engine is not built: npm run build")
@pytest.mark.parametrize("mode", MODES)
def test_the_engine_scores_with_adapters_as_peft_does(exported: Path, tmp_path: Path, mode: Mode) -> None:
    torch.manual_seed(7)
    wide = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        rank_pattern={"q_proj": 2, "layers.0.mlp.up_proj": 5},
        alpha_pattern={r"^model\.layers\.\d+\.self_attn\.v_proj$": 3},
        use_rslora=True,
        init_lora_weights=False,
    )
    outer = LoraConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=2,
        target_modules=["embed_tokens", "k_proj"],
        modules_to_save=["input_layernorm"],
        init_lora_weights=False,
    )
    folders = [tmp_path / "wide", tmp_path / "outer"]
    for config, folder in zip((wide, outer), folders, strict=True):
        adapted = get_peft_model(torch_model(exported), config)
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.data += torch.randn_like(parameter) / 4
        adapted.save_pretrained(str(folder))
    model = PeftModel.from_pretrained(torch_model(exported), folders[0]).merge_and_unload()
    model = PeftModel.from_pretrained(model, folders[1]).eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            # scale_layer() passes over embeddings.
            module.scaling["default"] *= 0.5
    lines = scored_lines(4)
    options = ["--kv-type", "f32", "--adapter", str(folders[0]), "--adapter", str(folders[1]), "--adapter-scale", "0.5"]
    got = engine_scores(exported, tmp_path, lines, mode, *options)
    expected = [torch_scores(exported, line, mode, model) for line in lines]
    assert worst_distance(got, expected) < BOUNDS["f32"]
    assert worst_distance(engine_scores(exported, tmp_path, lines, mode), expected) > 0.1


@pytest.mark.skipif(not CLI.is_file() or shutil.which("node") is None, reason="the engine is not built: npm run build")
def test_a_trained_adapter_serves_the_tokens_of_the_merged_export(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"The director of film {i} is person {i % 5}.\n" for i in range(200)))
    settings = run_settings(
        tmp_path,
        data={"text": [str(tmp_path / "text.txt")], "train": [], "modes": ["full"]},
        training={"steps": 3},
        lora={"rank": 4, "alpha": 64.0},
        export={"dtype": "float32"},
    )
    settings["model"] = {"path": str(exported), "prefix": "[Other]"}
    settings["optimizer"] = {**settings.get("optimizer", {}), "learning_rate": 0.02}
    train(parse_settings(settings), progress_target=None)
    run = tmp_path / "runs" / "run"
    lines = scored_lines(4)
    adapter = ["--adapter", str(run / "checkpoint-3")]
    got = engine_scores(exported, tmp_path, lines, "block", *adapter)
    merged = engine_scores(run / "export", tmp_path, lines, "block")
    assert worst_distance(got, merged) < BOUNDS["f32"]
    assert worst_distance(engine_scores(exported, tmp_path, lines, "block"), merged) > 0.01
    asked = ["generate", "--weights", "f32", "--prompt", "The director of film 3 is", "--max-tokens", "12", "--json"]
    served = [["--model", str(exported), *adapter], ["--model", str(run / "export")]]
    answers = [json.loads(run_engine([*asked, *model])[-1]) for model in served]
    assert answers[0]["token_ids"] == answers[1]["token_ids"]


def run_engine(arguments: list[str]) -> list[str]:
    done = subprocess.run(
        ["node", str(CLI), *arguments, "--threads", "1"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def scored_lines(count: int) -> list[dict[str, Any]]:
    return [
        {
            "blocks": [
                *(f"- Title: film {i + k}\nThe director of film {i + k} is person {k}.\n" for k in range(1 + i % 4)),
                f"Question: who is the director of film {i}?\n",
            ],
            "continuation": f"The director of film {i} is person {i % 13}.",
        }
        for i in range(count)
    ]


def engine_scores(
    model: Path, tmp_path: Path, lines: list[dict[str, Any]], mode: Mode, *options: str
) -> list[list[float]]:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "--input", str(path), "--json", "--model", str(model), "--mode", mode, "--weights", "f32"]
    return [json.loads(line)["logprobs"] for line in run_engine([*command, *options])]


def worst_distance(got: list[list[float]], expected: list[list[float]]) -> float:
    pairs = zip(got, expected, strict=True)
    return max(abs(a - b) for scores, wanted in pairs for a, b in zip(scores, wanted, strict=True))


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
