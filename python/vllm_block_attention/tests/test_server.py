"""vLLM's own server with the connector, over HTTP: what is encoded outlives a killed server."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from engines import connector, model_folder
from servers import free_port

RANDOM = random.Random(9)
A, B, FINAL = ([RANDOM.randrange(3, 500) for _ in range(length)] for length in (70, 41, 12))


@contextmanager
def server(model: str, store: Path, log: Path) -> Iterator[str]:
    """A server's address; at the end it is killed as a power cut would."""
    port = free_port()
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--skip-tokenizer-init"]
    where = ["--model", model, "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)]
    transfer = ["--kv-transfer-config", json.dumps(connector(store))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *where, *options, *transfer]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        assert process.poll() is None, log.read_text()[-3000:]
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def complete(address: str, ids: list[int], asked: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": ids, "temperature": 0, "detokenize": False, "return_token_ids": True, **fields}
    body["kv_transfer_params"] = {"block_attention": asked}
    headers = {"content-type": "application/json"}
    sent = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(sent, timeout=300) as answered:
        found = json.load(answered)
    assert isinstance(found, dict)
    return found


def test_what_is_encoded_outlives_a_killed_server(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    log = tmp_path / "log"
    answers = []
    for restart in range(2):
        with server(model, tmp_path / "store", log) as address:
            if restart == 0:
                with pytest.raises(urllib.error.HTTPError, match="500"):
                    complete(address, [*B, *A, *FINAL], {"blocks": [len(B), len(A)]})
                for block in (A, B):
                    told = complete(address, block, {"encode": True}, max_tokens=1)
                    assert told["kv_transfer_params"]["block_attention"]["tokens"] == len(block)
            found = complete(address, [*B, *A, *FINAL], {"blocks": [len(B), len(A)]}, max_tokens=8)
            assert found["usage"]["prompt_tokens"] == 123
            answers.append(found["choices"][0]["token_ids"])
            with urllib.request.urlopen(f"{address}/metrics") as metrics:
                text = metrics.read().decode()
        counted = {
            line.split("{")[0].removeprefix("vllm:block_attention_"): float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("vllm:block_attention_") and "_total{" in line
        }
        assert counted["blocks_saved_total"] == (2 if restart == 0 else 0)
        assert counted["blocks_from_store_total" if restart else "blocks_from_ram_total"] == 2
        assert counted["loads_failed_total"] == (1 if restart == 0 else 0)
        assert counted["tokens_loaded_total"] == 111
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8
