"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from .settings import OptimizerSettings, ScheduleSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the groups with `"muon": True`, AdamW for the others.

    torch.optim.Muon computes in bfloat16, which is slow on CPUs that have no instructions for it, and takes matrices
    only; this one computes in float32 on CPUs, matrices of one shape together, and is one optimizer to the Trainer.
    The update is scaled by 0.2 sqrt(max(rows, columns)), so that its size is AdamW's and one learning rate suits both.

    See K. Jordan et al., "Muon", 2024, and arXiv:2502.16982 for the scale.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **adamw: Any) -> None:
        groups = list(groups)
        super().__init__(groups, {"muon": False, "momentum": 0.95})
        self._adamw = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))]}], **adamw)
        for group in self.param_groups:
            if not group["muon"]:
                for key, value in self._adamw.defaults.items():
                    group.setdefault(key, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
        # The groups may have been replaced since, by load_state_dict() or where the model was sharded.
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        updates: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            average: Tensor = state["momentum_buffer"]
            average.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(average, group["momentum"])
            whole = update.full_tensor() if isinstance(update, DTensor) else update
            updates.setdefault(tuple(whole.shape), []).append((p, whole))
        for (rows, columns), pairs in updates.items():
            scale = 0.2 * math.sqrt(max(rows, columns))
            for (p, _), change in zip(pairs, orthogonalized([u for _, u in pairs]), strict=True):
                if isinstance(p, DTensor):
                    change = distribute_tensor(change.to(p.dtype), p.device_mesh, p.placements)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(change.to(p.dtype), alpha=group["lr"] * scale)


def orthogonalized(matrices: list[Tensor]) -> Iterator[Tensor]:
    """Each matrix with its singular values brought near 1 by Newton-Schulz steps; all are of one shape."""
    x = torch.stack(matrices)
    x = x.to(torch.float32 if x.device.type == "cpu" else torch.bfloat16)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return iter((x.mT if is_tall else x).unbind())


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of all weights that are trained. Decay is for matrices only, embeddings and norms have none."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    if isinstance(head, nn.Module):
        embeddings |= {id(p) for p in head.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    others = [p for p in trained if id(p) not in chosen]
    adamw: dict[str, Any] = {"betas": settings.betas, "eps": settings.epsilon}
    groups = [
        {"params": matrices, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": others, "lr": settings.learning_rate, "weight_decay": 0.0},
    ]
    if settings.name == "muon":
        groups[0] |= {"muon": True, "momentum": settings.momentum}
        groups[1]["lr"] = settings.adamw_learning_rate or settings.learning_rate
        return MuonAdamW([group for group in groups if group["params"]], **adamw)
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=fused, **adamw)


def rate_at(step: int, steps: int, settings: ScheduleSettings) -> float:
    """The part of the peak learning rate in step `step` of `steps`, counted from 0.

    The rise gives its first step a rate above 0; the ways that fall reach 0 after the last step.

    >>> [rate_at(i, 4, ScheduleSettings(name="linear", warmup_steps=2)) for i in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = math.ceil((settings.warmup_fraction or 0.0) * steps)
    if step < warmup:
        return (step + 1) / warmup
    left = max(0, steps - step)
    if settings.name == "constant":
        return 1.0
    if settings.name == "trapezoid":
        decay = math.ceil(settings.decay_fraction * steps)
        return min(1.0, left / decay) if decay else 1.0
    share = left / max(1, steps - warmup)
    return share if settings.name == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)


def make_schedule(optimizer: torch.optim.Optimizer, steps: int, settings: ScheduleSettings) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, settings))
