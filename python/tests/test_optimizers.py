import copy

import pytest
import torch
from torch import nn

from block_attention_trainer.optimizers import make_optimizer, orthogonalized, rate_at
from block_attention_trainer.settings import OptimizerSettings, ScheduleSettings


def rates(steps: int, **settings: object) -> list[float]:
    schedule = ScheduleSettings.model_validate(settings)
    return [round(rate_at(i, steps, schedule), 4) for i in range(steps + 1)]


def test_rate_at_follows_the_four_ways() -> None:
    assert rates(4, name="linear") == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(4, name="constant", warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert rates(4, name="cosine") == [1.0, 0.8536, 0.5, 0.1464, 0.0]
    assert rates(10, name="trapezoid", warmup_fraction=0.2, decay_fraction=0.4) == [
        *[0.5, 1.0, 1.0, 1.0, 1.0, 1.0],
        *[1.0, 0.75, 0.5, 0.25, 0.0],
    ]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalized_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    for matrix in orthogonalized([torch.randn(shape), 100 * torch.randn(shape)]):
        singular = torch.linalg.svdvals(matrix)
        assert matrix.shape == shape
        assert singular.max() < 1.3
        assert singular.min() > 0.3


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        x = torch.randint(9, (16,), generator=torch.Generator().manual_seed(step))
        loss = (model(x).squeeze(-1) - x.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_make_optimizer_learns_and_goes_on_from_its_state(name: str) -> None:
    settings = OptimizerSettings.model_validate({"name": name, "learning_rate": 0.05})
    model = small_model()
    optimizer = make_optimizer(model, settings, fused=False)
    losses = train(model, optimizer, 40)
    assert losses[-1] < 0.1 * losses[0]
    again = small_model()
    again.load_state_dict(model.state_dict())
    restored = make_optimizer(again, settings, fused=False)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(again, restored, 5, first=40) == train(model, optimizer, 5, first=40)


def test_make_optimizer_gives_muon_the_matrices_and_adamw_the_rest() -> None:
    model = small_model()
    settings = OptimizerSettings(name="muon", learning_rate=0.1, adamw_learning_rate=0.01)
    matrices, rest = make_optimizer(model, settings, fused=False).param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(12, 6), (1, 12)]
    assert matrices["lr"] == 0.1
    assert rest["lr"] == 0.01
    assert len(rest["params"]) == 5
