"""What tests in vLLM share. The module of engines is loaded where it is wanted: other tests run without vLLM."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engines import Oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from engines import model_folder

    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def oracle(model: str) -> "Oracle":
    from engines import Oracle

    return Oracle(model)
