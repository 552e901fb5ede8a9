"""The rows, places and masks of prompts in block mode that are repaired, written out as docs/reference.md has them.

A token that is computed again has two rows: as it was encoded, and as it is seen. What is thrown away before a block has rows
of its own, at the places right before it.
"""

import math
from dataclasses import dataclass

import torch
from transformers import DynamicCache

LOOKING = 64


@dataclass(frozen=True)
class Row:
    kind: str
    """own, before, again, or looking"""
    token: int
    block: int
    place: int
    is_global: bool
    is_moved: bool
    """of a local block but block 0"""


def rows_of(case: dict) -> list[Row]:
    blocks, continuation, repair = case["blockTokenIds"], case["continuationTokenIds"], case["repair"]
    last = len(blocks) - 1
    is_global = case.get("isGlobal") or [False] * last + [True]
    rows, place = [], 0
    for block, given in enumerate(blocks):
        moved = not is_global[block] and block > 0
        tokens = [*(repair.get("sinks", []) if moved else []), *given, *(continuation if block == last else [])]
        before = repair.get("before", []) if moved else []
        if before == "block 0":
            before = blocks[0]

        def add(kind: str, some: list[int], start: int) -> None:
            rows.extend(Row(kind, token, block, start + i, is_global[block], moved) for i, token in enumerate(some))

        add("before", before, place - len(before))
        if moved:
            add("again", tokens, place)
        if block == last:
            looking = given[-LOOKING:]
            add("looking", looking, place + len(given) - len(looking))
        add("own", tokens, place)
        place += len(tokens)
    return rows


def seen_by(rows: list[Row], seen_again) -> torch.Tensor:
    """[N, N] of bool: which row (column) each row sees. seen_again(place): whether a moved token is seen as computed again."""
    last = max(row.block for row in rows)

    def sees(of: Row, to: Row) -> bool:
        if of is to:
            return True
        if to.place > of.place or (to.kind == "looking" and of.kind != "looking"):
            return False
        if of.kind == "before":
            return to.kind == "before" and to.block == of.block
        if of.kind == "looking" and to.kind != "looking" and to.block == last:
            return False
        if of.kind == "own" and not of.is_global:
            return to.block == of.block and to.kind != "again"
        if to.kind == "before" or to.place == of.place:
            return False
        return not to.is_moved or to.kind == ("again" if seen_again(to.place) else "own")

    return torch.tensor([[sees(of, to) for to in rows] for of in rows])


def near(rows: list[Row], window: int) -> torch.Tensor:
    """[N, N] of bool: the columns within a sliding window of each row. Who looks sees nothing of the last block but each other: the window passes over it."""
    last = max(row.block for row in rows)
    looking = [row.place for row in rows if row.kind == "looking"]
    own = [row.place for row in rows if row.kind == "own" and row.block == last]
    gap = looking[0] - own[0] if looking else 0
    places = torch.tensor([row.place - (gap if row.kind == "looking" else 0) for row in rows])
    return places[:, None] - places[None, :] < window


def chosen_places(model, rows: list[Row], again: dict | None, forward) -> tuple[set[int], int]:
    """The places that are computed again, and up to which layer all of them are (-1: none)."""
    moved = [row for row in rows if row.kind == "own" and row.is_moved]
    if again is None:
        return set(), -1
    if again["kind"] == "first":
        starts = {block: min(row.place for row in moved if row.block == block) for block in {row.block for row in moved}}
        return {row.place for row in moved if row.place - starts[row.block] < again["count"]}, -1
    layers = model.config.num_hidden_layers
    worth = {row.place: 0.0 for row in moved}
    in_full = -1
    if again["kind"] == "deviation":
        in_full = min(1, layers - 1)
        some = [row for row in rows if row.kind != "looking"]
        values = forward(some, lambda layer: seen_by(some, lambda place: True)).past_key_values.layers[in_full].values[0]
        at = {(row.kind, row.place): i for i, row in enumerate(some)}
        for row in moved:
            difference = values[:, at["own", row.place]] - values[:, at["again", row.place]]
            worth[row.place] = difference.double().pow(2).sum().item()
    else:
        some = [row for row in rows if row.kind != "again"]
        attentions = forward(some, lambda layer: seen_by(some, lambda place: False)).attentions
        looking = [i for i, row in enumerate(some) if row.kind == "looking"]
        summed = sum(attentions[layer][0][:, looking].double().sum((0, 1)) for layer in range(layers // 4, -(-layers // 2)))
        for i, row in enumerate(some):
            if row.kind == "own" and row.is_moved:
                worth[row.place] = summed[i].item()
    best = sorted(worth, key=lambda place: (-worth[place], place))
    return set(best[: math.ceil(again["share"] * len(moved))]), in_full


def repaired_logits(model, case: dict) -> torch.Tensor:
    """The logits after the prompt and after each token of the continuation but the last."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    blocks = model.model.layers

    def forward(rows: list[Row], seen):
        def mask(layer: int) -> torch.Tensor:
            slides = window is not None and (kinds is None or kinds[layer] == "sliding_attention")
            cells = seen(layer) & near(rows, window) if slides else seen(layer)
            return torch.where(cells, 0.0, torch.finfo(torch.float32).min)[None, None]

        masks = {}

        def use(layer: int):
            def hook(_module, arguments, given):
                masks.setdefault(layer, mask(layer))
                return arguments, {**given, "attention_mask": masks[layer]}

            return hook

        hooks = [block.register_forward_pre_hook(use(layer), with_kwargs=True) for layer, block in enumerate(blocks)]
        try:
            with torch.no_grad():
                return model(
                    input_ids=torch.tensor([[row.token for row in rows]]),
                    # RoPE turns by differences: lead-ins before place 0 are moved with everything else.
                    position_ids=torch.tensor([[row.place + LOOKING for row in rows]]),
                    attention_mask=torch.zeros(1, 1, len(rows), len(rows)),
                    # Without the model's config it keeps all rows of sliding layers too.
                    past_key_values=DynamicCache(),
                    use_cache=True,
                    output_attentions=True,
                )
        finally:
            for hook in hooks:
                hook.remove()

    rows = rows_of(case)
    again, in_full = chosen_places(model, rows, case["repair"].get("again"), forward)
    kept = [
        row for row in rows if row.kind != "looking" and (row.kind != "again" or in_full >= 0 or row.place in again)
    ]
    per_kind = {
        True: seen_by(kept, lambda place: True),
        False: seen_by(kept, lambda place: place in again),
    }
    logits = forward(kept, lambda layer: per_kind[layer <= in_full]).logits[0]
    return logits[-len(case["continuationTokenIds"]) - 1 : -1]
