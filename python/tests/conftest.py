import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The models are tiny: more threads only wait for each other."""
    torch.set_num_threads(1)
