"""Prints the RoPE frequencies that Transformers computes, as the fixture tests/fixtures/rope.json.

    python python/oracles/rope_frequencies.py > tests/fixtures/rope.json

Each case: config.json's own keys, the inverse frequencies (radians per position) and the attention factor.
Written with Transformers 5.23 and PyTorch 2.15, float32.
"""

import json

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

CASES = [
    (64, 2048, {"rope_type": "default", "rope_theta": 10000.0}),
    (128, 32768, {"rope_type": "default", "rope_theta": 1000000.0}),
    (6, 128, {"rope_type": "default", "rope_theta": 500.0}),
    (64, 4096, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    (80, 4096, {"rope_type": "linear", "rope_theta": 40000.0, "factor": 2.5}),
    (128, 131072, {**LLAMA3, "rope_theta": 500000.0, "factor": 8.0}),
    (64, 131072, {**LLAMA3, "rope_theta": 500000.0, "factor": 32.0}),
    (96, 1024, {**LLAMA3, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 512,
                "high_freq_factor": 8.0}),
    (128, 131072, {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                   "original_max_position_embeddings": 32768}),
    (64, 2048, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0,
                "original_max_position_embeddings": 128, "beta_fast": 16.0, "beta_slow": 2.0}),
    (64, 2048, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "truncate": False,
                "original_max_position_embeddings": 256, "attention_factor": 1.25}),
    (64, 163840, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 1.0,
                  "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096}),
    (64, 163840, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 0.707,
                  "mscale_all_dim": 0.0, "original_max_position_embeddings": 4096}),
    (32, 512, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 1.0,
               "original_max_position_embeddings": 512}),
]


def main() -> None:
    cases = []
    for head_size, context, rope in CASES:
        config = LlamaConfig(
            hidden_size=2 * head_size,
            num_attention_heads=2,
            head_dim=head_size,
            max_position_embeddings=context,
            rope_parameters=dict(rope),
        )
        if rope["rope_type"] == "default":
            frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
        cases.append({
            "head_dim": head_size,
            "max_position_embeddings": context,
            "rope_parameters": rope,
            "inverse_frequencies": frequencies.tolist(),
            "attention_factor": factor,
        })
    print("[")
    print(",\n".join("  " + json.dumps(case) for case in cases))
    print("]")


if __name__ == "__main__":
    main()
