"""Block-Attention in vLLM itself, held to the block mask of an oracle: `npm run check:vllm` gives the model."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from engines import (
    BOUND,
    FINAL,
    ORDERS,
    A,
    B,
    C,
    D,
    Oracle,
    answer,
    connector,
    encode,
    engine,
    is_equal,
    request,
    run,
    tokens_of,
)

from vllm_block_attention.block_kv import open_block
from vllm_block_attention.requests import Naming, plan
from vllm_block_attention.store import FolderStore


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def llm(model: str, place: Path) -> Iterator[Any]:
    # No RAM tier: what is read comes from the store.
    with engine(model, connector(place, ram=0, load_timeout_s=3)) as made:
        run(made, [encode(block) for block in (A, B, C)])
        yield made


def path_of(place: Path, block: list[int], naming: Naming) -> Path:
    planned = plan({"block_attention": {"encode": True}}, block, naming)
    assert planned is not None
    return place / "blocks" / planned.blocks[0].id[:2] / f"{planned.blocks[0].id}.kv"


def naming_of(llm: Any) -> Naming:
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    naming = scheduler.connector._naming
    assert isinstance(naming, Naming)
    return naming


@pytest.mark.parametrize("order", range(3))
def test_answers_are_the_oracle_s_in_any_order(llm: Any, oracle: Oracle, order: int) -> None:
    blocks = [*ORDERS[order], FINAL]
    (output,) = run(llm, [answer(blocks)])
    assert is_equal(oracle, blocks, output)
    # Of 205 tokens only the final block is computed.
    assert output.num_cached_tokens == 186
    # The bound tells a wrong mask, and wrong places, apart.
    assert oracle.distance(blocks, output, mode="full")[0] > 10 * BOUND
    assert oracle.distance(blocks, output, reencoding=False)[0] > 10 * BOUND


def test_mixed_batches_keep_modes_apart(llm: Any, oracle: Oracle) -> None:
    ids = [token for block in [*ORDERS[0], FINAL] for token in block]
    # The same tokens in full mode, cut in two ways, and a block that is encoded meanwhile; twice, for the prefix cache.
    cut = [A, B + C, FINAL]
    run(llm, [encode(B + C)])
    for _ in range(2):
        full, one, other, _ = run(llm, [request(ids, None), answer([*ORDERS[0], FINAL]), answer(cut), encode(D)])
        assert is_equal(oracle, [ids], full, mode="full")
        assert is_equal(oracle, [*ORDERS[0], FINAL], one)
        assert is_equal(oracle, cut, other)


def test_several_answers_of_one_prompt(llm: Any, oracle: Oracle) -> None:
    blocks = [C, B, FINAL]
    (output,) = run(llm, [answer(blocks, n=2, temperature=1.0, seed=3)])
    assert len(output.outputs) == 2
    for each in output.outputs:
        output.outputs = [each]
        assert oracle.distance(blocks, output)[0] <= BOUND


def test_a_lost_block_fails_the_request_alone(llm: Any, oracle: Oracle, place: Path) -> None:
    path = path_of(place, A, naming_of(llm))
    kept = path.read_bytes()
    path.unlink()
    blocks = [A, C, FINAL[:-1]]
    lost, found = run(llm, [answer(blocks), answer([B, C, FINAL])])
    assert (lost.outputs[0].finish_reason, tokens_of(lost)) == ("error", [])
    assert is_equal(oracle, [B, C, FINAL], found)
    path.write_bytes(kept)
    (again,) = run(llm, [answer(blocks)])
    assert is_equal(oracle, blocks, again)


def test_a_block_that_is_there_is_not_encoded_again(llm: Any, place: Path) -> None:
    path = path_of(place, D, naming_of(llm))
    run(llm, [encode(D)])
    written = path.stat().st_mtime_ns, path.stat().st_ino
    llm.llm_engine.reset_prefix_cache()
    (again,) = run(llm, [encode(D)])
    assert again.num_cached_tokens >= len(D) - 1
    assert path.stat().st_ino == written[1]
    # One that cannot be loaded fails once, and is encoded then.
    path.write_bytes(path.read_bytes()[:-1])
    llm.llm_engine.reset_prefix_cache()
    assert [run(llm, [encode(D)])[0].outputs[0].finish_reason for _ in range(2)] == ["error", "length"]
    assert path.stat().st_size == len(path.read_bytes())
    assert open_block(path).shape[3] == len(D)


def test_a_damaged_block_is_never_used(llm: Any, oracle: Oracle, place: Path) -> None:
    path = path_of(place, B, naming_of(llm))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    blocks = [B, A, FINAL[1:]]
    (damaged,) = run(llm, [answer(blocks)])
    assert damaged.outputs[0].finish_reason == "error"
    assert not path.exists()
    run(llm, [encode(B)])
    (again,) = run(llm, [answer(blocks)])
    assert is_equal(oracle, blocks, again)


def test_another_s_block_is_a_miss_unless_allowed(llm: Any, place: Path) -> None:
    path = path_of(place, C, naming_of(llm))
    kept = path.read_bytes()
    at = kept.index(b'"producer":"vllm') + 12
    start = open_block(kept).start
    head = (kept[:at] + b"ggml" + kept[at + 4 :])[: start - 32]
    changed = head + hashlib.sha256(head).digest() + kept[start:]
    path.write_bytes(changed)
    (other,) = run(llm, [answer([C, A, FINAL[2:]])])
    assert other.outputs[0].finish_reason == "error"
    assert path.exists()
    path.write_bytes(kept)


def test_a_slow_store_holds_nobody_else_up(llm: Any, oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    read, free, asked = FolderStore.read, threading.Event(), []

    def slow(store: FolderStore, block_id: str) -> bytes | None:
        asked.append(block_id)
        if len(asked) == 1:
            free.wait(30)
        return read(store, block_id)

    monkeypatch.setattr(FolderStore, "read", slow)
    started = time.monotonic()
    late, plain = run(llm, [answer([A, C, B, FINAL]), request(FINAL, None)])
    assert late.outputs[0].finish_reason == "error"
    assert time.monotonic() - started >= 3
    assert is_equal(oracle, [FINAL], plain, mode="full")
    free.set()
    (in_time,) = run(llm, [answer([A, C, B, FINAL])])
    assert is_equal(oracle, [A, C, B, FINAL], in_time)


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [
        ({"blocks": [3]}, {"prompt_logprobs": 1}),
        ({"blocks": [3]}, {"skip_reading_prefix_cache": True}),
        ({"blocks": [300]}, {}),
        ({"blocks": [3], "repair": "x"}, {}),
        ({"encode": 7}, {}),
    ],
)
def test_what_is_not_supported_is_an_error_and_never_full_attention(llm: Any, asked: Any, sampling: Any) -> None:
    refused, plain = run(llm, [request(FINAL, asked, **sampling), request(FINAL, None, max_tokens=2)])
    assert (refused.outputs[0].finish_reason, tokens_of(refused)) == ("error", [])
    assert len(tokens_of(plain)) == 2
