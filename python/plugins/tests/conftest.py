"""A server over the embedded model, and an offline home for the harnesses' data."""

import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CLI = ROOT / "dist" / "cli" / "main.js"
MODEL = ROOT / "models" / "tiny-rag"

_home = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is downloaded or left in the user's caches. Before the harnesses are imported: they look then."""
    config.stash[_home] = Path(tempfile.mkdtemp(prefix="block-attention-plugins-"))
    os.environ |= {
        "HF_HOME": str(config.stash[_home]),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def pytest_unconfigure(config: pytest.Config) -> None:
    """Takes the home away."""
    shutil.rmtree(config.stash[_home], ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server of the embedded model, on a free port of this machine."""
    if not CLI.is_file() or shutil.which("node") is None:
        pytest.skip("the server is not built: npm run build")
    # In float32, as the reference computes: with rounded weights or keys, near ties would be decided otherwise.
    exact = ["--weights", "f32", "--kv-type", "f32"]
    command = ["node", str(CLI), "serve", "--port", "0", "--threads", "1", "--log-level", "error", *exact]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().removeprefix("Listening on ")
            assert address.startswith("http://127.0.0.1:"), address
            _wait_until_ready(f"{address}/ready")
            yield address
        finally:
            process.terminate()


def _wait_until_ready(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except urllib.error.HTTPError:
            time.sleep(0.1)
    raise RuntimeError(f"Cannot test: {url} was not ready within 30 s")
