"""The paper's seven benchmarks: GSM8K and MATH 4-shot, BBH and DROP 3-shot in block mode, the others in full mode.

    MODEL=runs/block_ft/export opencompass python/plugins/opencompass_block_attention/configs/paper.py

MODEL is the folder with the tokenizer; BASE_URL is the server, http://127.0.0.1:8080 where it is not set.
"""

import os

from mmengine.config import read_base

with read_base():
    from opencompass.configs.datasets.bbh.bbh_gen_5b92b0 import bbh_datasets
    from opencompass.configs.datasets.drop.drop_openai_simple_evals_gen_3857b0 import drop_datasets
    from opencompass.configs.datasets.gsm8k.gsm8k_gen_1d7fe4 import gsm8k_datasets
    from opencompass.configs.datasets.humaneval.humaneval_gen_8e312c import humaneval_datasets
    from opencompass.configs.datasets.IFEval.IFEval_gen_3321a3 import ifeval_datasets
    from opencompass.configs.datasets.math.math_gen_265cce import math_datasets
    from opencompass.configs.datasets.mmlu.mmlu_gen_4d595a import mmlu_datasets

from opencompass_block_attention.model import BlockAttention

served = {
    "type": BlockAttention,
    "base_url": os.environ.get("BASE_URL", "http://127.0.0.1:8080"),
    "tokenizer_path": os.environ.get("MODEL"),
    "meta_template": {
        "round": [{"role": "HUMAN", "api_role": "HUMAN"}, {"role": "BOT", "api_role": "BOT", "generate": True}],
        "reserved_roles": [{"role": "SYSTEM", "api_role": "SYSTEM"}],
    },
    "max_seq_len": 4096,
    "max_out_len": 1024,
    "batch_size": 32,
}
rounds = dict(abbr="block-attention-rounds", mode="block", cut="rounds", **served)
bbh = dict(abbr="block-attention-bbh", mode="block", cut="bbh", **served)
drop = dict(abbr="block-attention-drop", mode="block", cut="drop", **served)
full = dict(abbr="block-attention-full", mode="full", **served)

models = [rounds, bbh, drop, full]
datasets = [
    *gsm8k_datasets,
    *math_datasets,
    *bbh_datasets,
    *drop_datasets,
    *ifeval_datasets,
    *humaneval_datasets,
    *mmlu_datasets,
]
model_dataset_combinations = [
    {"models": [rounds], "datasets": [*gsm8k_datasets, *math_datasets]},
    {"models": [bbh], "datasets": bbh_datasets},
    {"models": [drop], "datasets": drop_datasets},
    {"models": [full], "datasets": [*ifeval_datasets, *humaneval_datasets, *mmlu_datasets]},
]
work_dir = "outputs/block-attention"
