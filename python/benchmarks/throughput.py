"""How fast training is, and which share of the machine's own matrix speed that is.

    python -m benchmarks.throughput [--shape embedded|inner-704|8x320|all] [--steps 3] [--threads N] [--profile]

Rows look like RAG samples: ten passages, a question, a short answer; packed rows hold one context with six questions.
For each case: tokens a second of whole steps (forward, backward, optimizer), and the share of the machine's matrix
speed: the multiplications that the weights need (6 per weight and token; the head's only where a target is predicted),
over the time that a step takes, against products of the model's own shapes measured in the same run. Attention's own
products are left out of that count, so the share is a lower bound; `share_with_attention` counts them too, for the
cells that the mask lets through alone (4 per cell and head dimension forward, twice that backward).
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from block_attention_trainer.attention import implementation_name, register_attention
from block_attention_trainer.batch import Batch, Collator, Opening
from block_attention_trainer.evaluation import target_logits
from block_attention_trainer.layout import MODES, Mode
from block_attention_trainer.optimizers import make_optimizer
from block_attention_trainer.packing import PackingOptions, plan_rows
from block_attention_trainer.samples import Limits, SampleFiles
from block_attention_trainer.settings import OptimizerSettings

VOCAB_SIZE = 4096
SHAPES = {"embedded": (6, 256, 4, 512), "inner-704": (6, 256, 4, 704), "8x320": (8, 320, 5, 880)}


def config_of(name: str) -> LlamaConfig:
    layers, width, heads, inner = SHAPES[name]
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else 1,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def write_samples(path: Path, contexts: int, questions: int) -> None:
    """Contexts of ten passages of 70 to 130 tokens; each question has 30 tokens, its answer 20."""
    rng = np.random.default_rng(0)
    rows = []
    for c in range(contexts):
        blocks = [20, *(int(n) for n in rng.integers(70, 131, 10))]
        context = rng.integers(4, VOCAB_SIZE, sum(blocks)).tolist()
        for q in range(questions):
            final, answer = (rng.integers(4, VOCAB_SIZE, n).tolist() for n in (30, 20))
            rows.append(
                {
                    "input_ids": context + final + answer,
                    "labels": [-100] * (len(context) + 30) + answer,
                    "block_lengths": [*blocks, 30],
                    "modes": ["block", "full"],
                    "sample_id": f"{c}-{q}",
                    "group_id": str(c),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), path)


def batches_of(path: Path, mode: tuple[Mode, ...], tokens_per_row: int | None, count: int) -> list[Batch]:
    files = SampleFiles([path])
    opening = Opening(None, ())
    index = files.index(Limits(VOCAB_SIZE, 2048, opening.lengths()))
    options = PackingOptions(mode, opening.lengths(), tokens_per_row, True, 8, 8)
    rows = [row for _, row in zip(range(count), plan_rows(index, options, seed=0), strict=False)]
    return [Collator(files, index, opening)(row) for row in rows]


def best_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def matrix_speed(config: LlamaConfig, tokens: int, dtype: torch.dtype) -> float:
    """FLOP/s of the layers' own products, forward and both backward ones, each shape as often as a layer has it."""
    width, inner, kv = config.hidden_size, config.intermediate_size, 64 * (config.num_key_value_heads or 1)
    q = 64 * config.num_attention_heads
    shapes = [(width, q), (width, kv), (width, kv), (q, width), (width, inner), (width, inner), (inner, width)]
    flops = seconds = 0.0
    for inputs, outputs in shapes:
        x, w = torch.randn(tokens, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
        g = torch.randn(tokens, outputs, dtype=dtype)
        for a, b in ((x, w.T), (g, w), (g.T, x)):
            seconds += best_seconds(lambda a=a, b=b: a @ b, 3)  # type: ignore[misc]
            flops += 2 * tokens * inputs * outputs
    return flops / seconds


def step_flops(model: LlamaForCausalLM, batch: Batch) -> float:
    layers = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    head = model.lm_head.weight.numel()
    return 6.0 * (layers * batch.num_tokens + head * len(batch.targets))


def attention_flops(model: LlamaForCausalLM, batch: Batch) -> float:
    config = model.config
    cells = int(batch.layout.dense_mask.sum())
    return 12.0 * cells * config.num_attention_heads * 64 * config.num_hidden_layers


def main() -> None:
    """Prints a line of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="embedded")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--attention", choices=["dense", "segments"], action="append")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--profile", action="store_true", help="where the time of the first case goes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    register_attention()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.parquet"
        write_samples(path, contexts=12, questions=6)
        for shape in SHAPES if options.shape == "all" else [options.shape]:
            run_shape(shape, path, options)


def run_shape(shape: str, path: Path, options: argparse.Namespace) -> None:
    """All cases of a shape."""
    config = config_of(shape)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    speed = matrix_speed(config, 3000, dtype)
    for attention in options.attention or ["segments", "dense"]:
        config._attn_implementation = implementation_name(attention)
        model = LlamaForCausalLM(config)
        optimizer = make_optimizer(model, OptimizerSettings(name=options.optimizer, learning_rate=1e-3), fused=False)
        cases: list[tuple[str, tuple[Mode, ...], int | None]] = [
            ("both modes, packed", MODES, 3500),
            ("block mode, packed", ("block",), 3500),
            ("full mode, packed", ("full",), 3500),
            ("both modes, one sample a row", MODES, None),
        ]
        for name, modes, tokens_per_row in cases:
            batches = batches_of(path, modes, tokens_per_row, options.steps + 1)
            told = measure(model, optimizer, batches, dtype, profiled=options.profile)
            speed = max(speed, matrix_speed(config, 3000, dtype))
            share, with_attention = (told.pop(name) / told["seconds"] / speed for name in ("flops", "all_flops"))
            line: dict[str, Any] = {"shape": shape, "attention": attention, "case": name, **told}
            line |= {"share_of_matrix_speed": round(share, 3), "share_with_attention": round(with_attention, 3)}
            line |= {"matrix_gflops": round(speed / 1e9, 1)}
            # Shares mean something on a calm machine only: a load above the threads says that it was not.
            line |= {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
            line |= {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
            print(json.dumps(line), flush=True)
            if options.profile:
                return


def measure(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    dtype: torch.dtype,
    *,
    profiled: bool,
) -> dict[str, Any]:
    """Whole steps of one row each; the first only warms up."""
    model.train()
    marks = {"compute": 0.0, "optimizer": 0.0}

    def step(batch: Batch) -> None:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = target_logits(model, batch)
            loss = F.cross_entropy(logits, batch.targets, reduction="sum") / len(batch.targets)
        loss.backward()
        middle = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks["compute"] += middle - start
        marks["optimizer"] += time.perf_counter() - middle

    step(batches[0])
    for name in marks:
        marks[name] = 0.0
    if profiled:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            step(batches[1])
        print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
    for batch in batches[1:]:
        step(batch)
    seconds = sum(marks.values())
    tokens = sum(batch.num_tokens for batch in batches[1:])
    flops = sum(step_flops(model, batch) for batch in batches[1:])
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_row": round(tokens / (len(batches) - 1)),
        "seconds": round(seconds, 3),
        "optimizer_share": round(marks["optimizer"] / seconds, 3),
        "flops": flops,
        "all_flops": flops + sum(attention_flops(model, batch) for batch in batches[1:]),
    }


if __name__ == "__main__":
    main()
