"""Both modes on samples that are never trained on, and the difference between them."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import Batch
from .layout import Kind, Mode

SUMS = ("loss", "right", "targets", "first_right", "firsts", "answers_right", "answers")


def model_inputs(batch: Batch) -> dict[str, Any]:
    """A batch as the model's keywords; logits come for the rows that predict a target, and no others."""
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.layout.position,
        "layout": batch.layout,
        "logits_to_keep": batch.predictors,
        "use_cache": False,
    }


def target_logits(model: nn.Module, batch: Batch) -> Tensor:
    """[N targets, vocabulary], float32."""
    logits = model(**model_inputs(batch)).logits
    assert isinstance(logits, Tensor)
    return logits[0].float()


@torch.no_grad()
def evaluate_mode(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> Tensor:
    """Sums over this process's batches, in the order of SUMS, float64.

    An answer is right where each of its tokens is the likeliest after the right ones before it: exactly where greedy
    decoding would give it.
    """
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    for batch in (b.to(device) for b in batches):
        logits = target_logits(model, batch)
        right = logits.argmax(-1) == batch.targets
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        _, number = batch.question.unique(return_inverse=True)
        num_answers = len(batch.sample_ids)
        wrong = torch.zeros(num_answers, device=device).index_add_(0, number, (~right).float())
        parts = [
            loss if len(right) else logits.new_zeros(()),
            right.sum(),
            right.numel(),
            (right & batch.is_first).sum(),
            batch.is_first.sum(),
            (wrong == 0).sum(),
            num_answers,
        ]
        sums += torch.stack([torch.as_tensor(x, dtype=torch.float64, device=device) for x in parts])
    return sums


def metrics_of(sums: dict[Mode, Tensor]) -> dict[str, float]:
    """Loss a token, accuracies of tokens, first tokens and whole answers of each mode; full minus block of each."""
    metrics: dict[str, float] = {}
    for mode, values in sums.items():
        s = dict(zip(SUMS, values.tolist(), strict=True))
        metrics[f"{mode}_loss"] = s["loss"] / max(1, s["targets"])
        metrics[f"{mode}_token_accuracy"] = s["right"] / max(1, s["targets"])
        metrics[f"{mode}_first_token_accuracy"] = s["first_right"] / max(1, s["firsts"])
        metrics[f"{mode}_answer_accuracy"] = s["answers_right"] / max(1, s["answers"])
    if len(sums) == 2:
        for name in ("loss", "token_accuracy", "first_token_accuracy", "answer_accuracy"):
            metrics[f"full_minus_block_{name}"] = metrics[f"full_{name}"] - metrics[f"block_{name}"]
    return metrics


@torch.no_grad()
def greedy_answer(model: nn.Module, batch: Batch, ends: set[int], device: torch.device) -> list[int]:
    """The greedy continuation of the batch's only sample before its first target."""
    batch = batch.to(device)
    prompt = int(batch.predictors[0]) + 1
    layout = batch.layout.__class__(
        *(x[:, :prompt] for x in (batch.layout.sample, batch.layout.segment, batch.layout.kind, batch.layout.position))
    )
    out = model(input_ids=batch.input_ids[:, :prompt], position_ids=layout.position, layout=layout, use_cache=True)
    seen = (layout.is_context | (layout.kind == Kind.FINAL))[0]
    if not bool(seen.all()):
        # Nobody sees lead-ins from here on.
        for cached in out.past_key_values.layers:
            cached.keys, cached.values = cached.keys[:, :, seen], cached.values[:, :, seen]
    answer: list[int] = []
    first = int(layout.position[0, -1]) + 1
    for position in range(first, first + 2 * len(batch.targets) + 8):
        answer.append(int(out.logits[0, -1].argmax()))
        if answer[-1] in ends:
            break
        out = model(
            input_ids=torch.tensor([[answer[-1]]], device=device),
            position_ids=torch.tensor([[position]], device=device),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
    return answer
