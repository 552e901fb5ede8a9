"""lm-evaluation-harness over a block-attention server: demonstrations are sent as blocks.

`python -m lm_eval_block_attention run --model block-attention-completions …` is the harness with the models of
`models.py`; docs/benchmark-harnesses.md has the command lines.
"""
