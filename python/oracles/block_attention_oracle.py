"""Scores prompts with Hugging Face Transformers under an explicit block mask: the oracle of the engine's tests.

One forward pass over the whole prompt and its continuation, in float32, with the mask and the positions written out as
the paper defines them (arXiv:2409.15355v5, section 2). Nothing is cached, moved or re-encoded.

    python block_attention_oracle.py --model FOLDER --cases cases.json --out results.json

cases.json: {"cases": [{"name", "mode": "block" | "full", "positionReencoding": bool, "blockTokenIds": [[int]],
"isGlobal"?: [bool], "repair"?: {"before"?: [int] | "block 0", "sinks"?: [int], "again"?: {"kind": "first", "count": int} |
{"kind": "deviation" | "look", "share": float}}, "continuationTokenIds": [int]}]}. isGlobal says which blocks see all before
them, by default the last alone, the final block.
results.json: {"versions", "cases": [{"name", "logprobs": [float], "top": [[[id, logprob], five of them]]}]}.
"""

import argparse
import json

import torch
import transformers
from repaired_rows import repaired_logits


def visible(block_of_row: list[int], is_global: list[bool], mode: str) -> torch.Tensor:
    """Which column (key) each row (query) sees: [N, N] of bool.

    Causal always. In block mode a row of a local block sees its own block only; a global one, such as the final block
    with the continuation, sees everything. For blocks of 1 and 2 tokens and a final one of 1: 1000 / 0100 / 0110 / 1111.
    """
    cells = [
        [
            column <= row and (mode == "full" or is_global[block] or block == block_of_row[column])
            for column in range(len(block_of_row))
        ]
        for row, block in enumerate(block_of_row)
    ]
    return torch.tensor(cells, dtype=torch.bool)


def positions(block_of_row: list[int], is_global: list[bool], mode: str, reencoding: bool) -> list[int]:
    """Places 0 to N - 1; without re-encoding each local block counts from 0, and global ones keep their places."""
    if mode == "full" or reencoding:
        return list(range(len(block_of_row)))
    first_row: dict[int, int] = {}
    for row, block in enumerate(block_of_row):
        first_row.setdefault(block, row)
    return [row if is_global[block] else row - first_row[block] for row, block in enumerate(block_of_row)]


def masks(model: transformers.PreTrainedModel, seen: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """What is added to the scores before the softmax, [1, 1, N, N]: for each kind of layer, where there are kinds.

    Rows of sliding layers see, of what they see, the last places within the window, their own among them.
    """
    config = model.config
    added = lambda cells: torch.where(cells, 0.0, torch.finfo(torch.float32).min)[None, None]
    if (window := getattr(config, "sliding_window", None)) is None:
        return added(seen)
    places = torch.arange(len(seen))
    near = added(seen & (places[:, None] - places[None, :] < window))
    if getattr(config, "layer_types", None) is None:
        return near
    return {"full_attention": added(seen), "sliding_attention": near}


def score(model: transformers.PreTrainedModel, case: dict) -> dict:
    """The log-probability of each continuation token given all before it, and the five likeliest at each step."""
    continuation = case["continuationTokenIds"]
    rows = repaired_logits(model, case) if "repair" in case else plain_logits(model, case)
    # Sums in 64 bit, so that the softmax adds no error of its own.
    logprobs = torch.log_softmax(rows.double(), dim=-1)
    best = logprobs.topk(5, dim=-1)
    return {
        "name": case["name"],
        "logprobs": [round(logprobs[step, token].item(), 7) for step, token in enumerate(continuation)],
        "top": [
            [[token, round(value, 7)] for token, value in zip(best.indices[step].tolist(), best.values[step].tolist())]
            for step in range(len(continuation))
        ],
    }


def plain_logits(model: transformers.PreTrainedModel, case: dict) -> torch.Tensor:
    """The logits after the prompt and after each token of the continuation but the last."""
    blocks, continuation = case["blockTokenIds"], case["continuationTokenIds"]
    is_global = case.get("isGlobal") or [False] * (len(blocks) - 1) + [True]
    rows = [*blocks[:-1], [*blocks[-1], *continuation]]
    ids = [token for block in rows for token in block]
    block_of_row = [index for index, block in enumerate(rows) for _ in block]

    seen = visible(block_of_row, is_global, case["mode"])
    places = positions(block_of_row, is_global, case["mode"], case["positionReencoding"])
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([ids]),
            attention_mask=masks(model, seen),
            position_ids=torch.tensor([places]),
            use_cache=False,
        ).logits[0]
    # The row before a token predicts it.
    return logits[len(ids) - len(continuation) - 1 : -1]


def check_mask_is_used(model: transformers.PreTrainedModel) -> None:
    """Fails unless a later block's logits are free of an earlier block's tokens: the mask reached the attention."""
    logits = []
    for other in (3, 4):
        ids = [other, 5, 6, 7, 8, 9]
        mask = masks(model, visible([0, 0, 1, 1, 1, 2], [False, False, True], "block"))
        with torch.no_grad():
            logits.append(model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0])
    same = [torch.allclose(logits[0][rows], logits[1][rows], atol=1e-4) for rows in (slice(2, 5), 5)]
    # Not bit for bit: how many rows an expert gets decides how its product is summed.
    if same != [True, False]:
        raise RuntimeError("Cannot score: this version of Transformers does not use the mask it was given")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--cases", required=True, help="JSON, as above")
    parser.add_argument("--out", required=True, help="where the JSON of the results goes")
    arguments = parser.parse_args()

    with open(arguments.cases, encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    check_mask_is_used(model)
    results = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cases": [score(model, case) for case in cases],
    }
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
