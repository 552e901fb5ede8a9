"""Two processes on this machine, by torchrun over gloo, against one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import run_settings
from safetensors.torch import load_file

from block_attention_trainer.settings import parse_settings
from block_attention_trainer.train import train

ROOT = Path(__file__).parent.parent
BOUND = 1e-5


def two_processes(settings: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    path.write_text(json.dumps(settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    endpoint = ["--rdzv-endpoint=127.0.0.1:0", "-m", "block_attention_trainer"]
    command = [*torchrun, *endpoint, "train", "--config", str(path), "--progress-json", "-"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def step_losses(events: list[dict[str, Any]]) -> list[float]:
    return [e["loss"] for e in events if e["event"] == "step"]


@pytest.mark.parametrize(("distributed", "optimizer"), [("ddp", "adamw"), ("ddp", "muon")])
def test_two_processes_train_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], distributed: str, optimizer: str
) -> None:
    def settings(name: str) -> dict[str, Any]:
        return run_settings(
            tmp_path,
            run_name=name,
            data={"evaluation": [str(tmp_path / "dev.parquet")]},
            optimizer={"name": optimizer, "epsilon": 1e-3},
            training={"steps": 4, "distributed": distributed, "loss_divisor": "tokens"},
            evaluation={"every_steps": 4},
            checkpoints={"every_steps": 2, "keep": 3},
            export={"dtype": "float32"},
        )

    assert train(parse_settings(settings("one")), progress_target="-") == 0
    one = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    two = two_processes(settings("two"), tmp_path / "two.json")
    assert len(step_losses(two)) == 4
    assert step_losses(two) == pytest.approx(step_losses(one), abs=BOUND)
    evaluations = [next(e for e in events if e["event"] == "evaluation")["metrics"] for events in (one, two)]
    assert evaluations[1] == pytest.approx(evaluations[0], abs=BOUND)
    weights = [load_file(tmp_path / "runs" / name / "export" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() < 1e-4, name
    assert torch.get_num_threads() == 1


def test_fsdp_on_cpus_is_refused(tmp_path: Path) -> None:
    settings = run_settings(tmp_path, run_name="sharded", training={"steps": 1, "distributed": "fsdp"})
    (tmp_path / "s.json").write_text(json.dumps(settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command = [*torchrun, "--rdzv-endpoint=127.0.0.1:0", "-m", "block_attention_trainer", "train", "--config"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(tmp_path / "s.json")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert 'it is "fsdp", CPUs are sharded over by none, wanted "ddp"' in done.stderr


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_deepspeed_configurations_are_read(name: str) -> None:
    """DeepSpeed itself is not installed here, so that these were never run: what stands in them is checked."""
    config = json.loads((ROOT / "configs" / "deepspeed" / f"{name}.json").read_text())
    assert config["zero_optimization"]["stage"] == int(name[-1])
    assert config["bf16"]["enabled"] == "auto"
    assert config["gradient_accumulation_steps"] == "auto"
    assert config["train_micro_batch_size_per_gpu"] == "auto"
    if name == "zero3":
        assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
