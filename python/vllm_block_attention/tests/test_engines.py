"""Block-Attention in vLLM engines of other kinds: small pages, several workers, another type, another store.

Apart from test_vllm.py: one process has one engine with a connector at a time.
"""

from pathlib import Path

import pytest

pytest.importorskip("vllm")

from engines import (
    FINAL,
    ORDERS,
    A,
    B,
    C,
    Oracle,
    answer,
    connector,
    encode,
    engine,
    is_equal,
    logprobs_of,
    request,
    run,
)
from servers import redis_server


@pytest.fixture(scope="module")
def place(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with blocks that one worker has encoded."""
    folder = tmp_path_factory.mktemp("store")
    with engine(model, connector(folder)) as one:
        run(one, [encode(block) for block in (A, B, C)])
    return folder


def files(place: Path) -> list[Path]:
    return sorted(place.glob("blocks/*/*.kv"))


def test_preempted_requests_load_their_blocks_again(model: str, place: Path, oracle: Oracle) -> None:
    # Six answers of 128 tokens and 64 more want 36 pages.
    with engine(model, connector(place), num_gpu_blocks_override=22) as small:
        finals = [FINAL[i:] + FINAL[:i] for i in range(6)]
        outputs = run(small, [answer([A, B, final], max_tokens=64) for final in finals])
        metrics = {metric.name: getattr(metric, "value", 0) for metric in small.get_metrics()}
        assert metrics["vllm:num_preemptions"] > 0
    for final, output in zip(finals, outputs, strict=True):
        assert is_equal(oracle, [A, B, final], output)


@pytest.mark.parametrize("workers", [3])
def test_another_tensor_parallel_size_reads_the_same_blocks(
    model: str, place: Path, oracle: Oracle, workers: int
) -> None:
    before = files(place)
    with engine(model, connector(place), tensor_parallel_size=workers) as several:
        outputs = run(several, [answer([*order, FINAL]) for order in ORDERS])
        for order, output in zip(ORDERS, outputs, strict=True):
            assert is_equal(oracle, [*order, FINAL], output)
        assert files(place) == before
        run(several, [encode(C + A)])
        assert len(files(place)) == len(before) + 1
    # A later process, with one worker, reads what three have encoded.
    with engine(model, connector(place)) as later:
        (output,) = run(later, [answer([C + A, B, FINAL])])
        assert output.num_cached_tokens == 186
        assert is_equal(oracle, [C + A, B, FINAL], output)


def test_one_server_hits_what_another_encoded_over_one_redis(model: str, oracle: Oracle) -> None:
    with redis_server() as url:
        with engine(model, connector(url)) as first:
            run(first, [encode(block) for block in (A, C)])
        with engine(model, connector(url)) as second:
            (output,) = run(second, [answer([C, A, FINAL])])
            counted = {metric.name: getattr(metric, "value", 0) for metric in second.get_metrics()}
    assert is_equal(oracle, [C, A, FINAL], output)
    assert counted["vllm:block_attention_blocks_from_store"] == 2
    assert counted["vllm:block_attention_blocks_saved"] == 0


def test_bfloat16_pages_come_back_as_they_were(model: str, place: Path) -> None:
    with engine(model, connector(place, ram=0), dtype="bfloat16") as half:
        run(half, [encode(A)])
        (stored,) = run(half, [answer([A, FINAL], max_tokens=8)])
        (plain,) = run(half, [request(A + FINAL, None, max_tokens=8)])
    # One block before the final one is full attention.
    both = zip(logprobs_of(stored), logprobs_of(plain), strict=True)
    first = next(both)
    assert abs(first[0] - first[1]) < 0.1
