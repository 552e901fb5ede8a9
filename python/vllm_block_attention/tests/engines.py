"""vLLM's own engine with the connector, in this process, and the oracle that it is held to."""

import gc
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAGE = 32

# Of a token's log-probability, float32, written before the first result. A wrong mask or place is ten times beyond
BOUND = 2e-4

RANDOM = random.Random(7)
A, B, C, D, FINAL = ([RANDOM.randrange(3, 500) for _ in range(length)] for length in (57, 33, 96, 70, 19))
ORDERS = [[A, B, C], [C, A, B], [B, C, A]]

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# Threads that wait by spinning take the cores from those that work, where there are more threads than cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests reach into the store of the one worker.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))


def model_folder(folder: Path) -> str:
    """The model that BLOCK_ATTENTION_VLLM_MODEL names, or a small random one, made in the folder."""
    if named := os.environ.get("BLOCK_ATTENTION_VLLM_MODEL"):
        return named
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    # Of three workers each has one of the KV heads. Weights are large enough for likely tokens.
    sizes = {"hidden_size": 192, "intermediate_size": 288, "num_hidden_layers": 3, "vocab_size": 576}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32}
    config = LlamaConfig(**sizes, **heads, initializer_range=0.15, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def connector(store: Path | str, **settings: Any) -> dict[str, Any]:
    return {
        "kv_connector": "BlockAttentionConnector",
        "kv_connector_module_path": "vllm_block_attention.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"store": str(store), **settings},
    }


@contextmanager
def engine(model: str, transfer: dict[str, Any], **options: Any) -> Iterator[Any]:
    """An LLM in float32 that encodes in chunks of 64 tokens and caches prefixes, with pages of 32 tokens."""
    from vllm import LLM
    from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    defaults = {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 8,
        "max_model_len": 512,
        "block_size": PAGE,
        "disable_log_stats": False,
        "seed": 0,
        "skip_tokenizer_init": True,
    }
    llm = LLM(model=model, kv_transfer_config=transfer, **{**defaults, **options})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        # Else the next engine of this process had this one's connector.
        ensure_kv_transfer_shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def request(ids: Sequence[int], asked: dict[str, Any] | None, max_tokens: int = 24, **sampling: Any) -> tuple[Any, Any]:
    """A prompt and its sampling parameters: greedy, with the log-probabilities of what is chosen."""
    from vllm import SamplingParams

    extra = {} if asked is None else {"extra_args": {"kv_transfer_params": {"block_attention": asked}}}
    given = {
        "temperature": 0.0,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
        **extra,
        **sampling,
    }
    return {"prompt_token_ids": list(ids)}, SamplingParams(**given)


def answer(blocks: Sequence[Sequence[int]], **sampling: Any) -> tuple[Any, Any]:
    """Asks with all but the last as stored blocks."""
    ids = [token for block in blocks for token in block]
    return request(ids, {"blocks": [len(block) for block in blocks[:-1]]}, **sampling)


def encode(block: Sequence[int], **asked: Any) -> tuple[Any, Any]:
    return request(block, {"encode": True, **asked}, max_tokens=1)


def run(llm: Any, requests: Sequence[tuple[Any, Any]]) -> list[Any]:
    prompts, params = zip(*requests, strict=True)
    return list(llm.generate(list(prompts), list(params), use_tqdm=False))


def tokens_of(output: Any) -> list[int]:
    return list(output.outputs[0].token_ids)


def logprobs_of(output: Any) -> list[float]:
    steps = zip(output.outputs[0].logprobs, tokens_of(output), strict=True)
    return [step[token].logprob for step, token in steps]


class Oracle:
    """Hugging Face Transformers with the block mask written out, in float32."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def distance(
        self, blocks: Sequence[Sequence[int]], output: Any, mode: str = "block", *, reencoding: bool = True
    ) -> tuple[float, int]:
        """The largest difference of a token's log-probability, and how many tokens are not the oracle's likeliest."""
        from block_attention_oracle import score

        continuation = tokens_of(output)
        case = {
            "name": "",
            "mode": mode,
            "positionReencoding": reencoding,
            "blockTokenIds": [list(block) for block in blocks],
            "continuationTokenIds": continuation,
        }
        scored = score(self._model, case)
        pairs = zip(scored["logprobs"], logprobs_of(output), strict=True)
        others = sum(top[0][0] != token for top, token in zip(scored["top"], continuation, strict=True))
        return max((abs(a - b) for a, b in pairs), default=math.inf), others


def is_equal(oracle: Oracle, blocks: list[list[int]], output: Any, **how: Any) -> bool:
    distance, others = oracle.distance(blocks, output, **how)
    print(f"largest difference {distance:.2e}, {others} other tokens")
    return distance <= BOUND and others == 0
