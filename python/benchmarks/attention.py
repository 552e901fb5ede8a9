"""How fast the ways of attending are under the block mask: FlexAttention against the dense mask on CUDA.

    python -m benchmarks.attention [--length 4096] [--heads 32] [--kv-heads 8] [--size 128] [--repeats 10]

One row of one sample in block mode, passages of 70 to 130 tokens and a final block of 100, and the same row in full
mode. For each way: the best time of forward and backward together, the peak of memory on CUDA, how many times as fast
as the dense mask, and the largest difference of its output from the dense mask's. On CUDA in bfloat16; on CPUs, where
FlexAttention has no backward, `segments` stands against the dense mask, in float32.
"""

import argparse
import json
import platform
import time

import numpy as np
import torch
from torch import Tensor

from block_attention_trainer.attention import Attention, attend
from block_attention_trainer.layout import MODES, Layout, Mode, shared_context

NUM_FINAL = 100


def layout_of(length: int, mode: Mode, device: torch.device) -> Layout:
    """A row of `length` tokens."""
    rng = np.random.default_rng(0)
    blocks: list[int] = []
    while (left := length - NUM_FINAL - sum(blocks)) > 0:
        blocks.append(min(left, int(rng.integers(70, 131))))
    return Layout.of_rows([[shared_context(0, blocks, [NUM_FINAL], mode)]]).to(device)


def measure(attention: Attention, qkv: tuple[Tensor, Tensor, Tensor], layout: Layout, repeats: int) -> dict[str, float]:
    """Seconds of the fastest of `repeats` calls, after two that only warm up, and the peak of memory on CUDA."""
    on_cuda = qkv[0].is_cuda

    def call() -> float:
        start = time.perf_counter()
        torch.autograd.grad(attend(attention, *qkv, layout).sum(), qkv)
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(2):
        call()
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    told = {"seconds": min(call() for _ in range(repeats))}
    if on_cuda:
        told["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return told


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main() -> None:
    """Prints a line of JSON for each mode and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 4096), ("heads", 32), ("kv-heads", 8), ("size", 128), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=positive, default=default)
    options = parser.parse_args()
    if options.length <= NUM_FINAL:
        parser.error(f"--length is {options.length}, wanted more than the final block's {NUM_FINAL} tokens")
    if options.heads % options.kv_heads:
        parser.error(f"--heads is {options.heads}, wanted a multiple of --kv-heads, {options.kv_heads}")
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    dtype = torch.bfloat16 if on_cuda else torch.float32
    other: Attention = "flex" if on_cuda else "segments"
    machine = torch.cuda.get_device_name() if on_cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    torch.manual_seed(0)
    qkv = tuple(
        torch.randn(1, heads, options.length, options.size, device=device, dtype=dtype, requires_grad=True)
        for heads in (options.heads, options.kv_heads, options.kv_heads)
    )
    assert len(qkv) == 3
    for mode in MODES:
        layout = layout_of(options.length, mode, device)
        dense = measure("dense", qkv, layout, options.repeats)
        told = measure(other, qkv, layout, options.repeats)
        with torch.no_grad():
            difference = (attend(other, *qkv, layout) - attend("dense", *qkv, layout)).abs().max().item()
        rest = {"times_as_fast": round(dense["seconds"] / told["seconds"], 2), "largest_difference": difference}
        for attention, figures in (("dense", dense), (other, told | rest)):
            line = {"mode": mode, "attention": attention, "length": options.length, **figures}
            print(json.dumps(line | {"dtype": str(dtype), "machine": machine, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
