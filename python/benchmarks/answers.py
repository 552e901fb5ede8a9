"""Answers a packed file's questions greedily, in both modes, and scores them against RAG lines.

    python -m benchmarks.answers --model FOLDER [--adapter CHECKPOINT] --data test.parquet --rag test.jsonl

A context is computed once for all its questions. How blocks are encoded is what the adapter or the model says, or
`--repair` and `--lead`. Scores: the answer holds a gold one on word borders; it is one; both normalized as in SQuAD.
"""

import argparse
import copy
import json
import re
import string
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from block_attention_trainer.batch import Collator
from block_attention_trainer.layout import MODES, Kind, Layout
from block_attention_trainer.models import encoding_of, load_model, load_tokenizer, opening_of, saved_adapter
from block_attention_trainer.packing import Item, PackingOptions, plan_rows
from block_attention_trainer.samples import Limits, SampleFiles
from block_attention_trainer.settings import LoraSettings, ModelSettings

MOST_TOKENS = 32


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and extra space."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def holds(answer: str, gold: str) -> bool:
    return bool(gold) and f" {gold} " in f" {answer} "


def settings_of(options: argparse.Namespace) -> ModelSettings:
    """How blocks are encoded: as given, else as the adapter or the model was trained."""
    if options.repair is not None:
        return ModelSettings(path=options.model, repair=options.repair, lead=options.lead)
    name = Path(options.adapter or options.model) / ("adapter_config.json" if options.adapter else "config.json")
    own = json.loads(name.read_text()).get("block_attention") or {}
    repair, _, lead = own.get("repair", "none").partition("lead=")
    if lead:
        return ModelSettings(path=options.model, repair="lead", lead=json.loads(lead))
    return ModelSettings(path=options.model, repair=repair)


@torch.no_grad()
def answers_of(model: Any, collate: Collator, item: Item, ends: set[int]) -> list[list[int]]:
    """The greedy answers to the questions of one context."""
    batches = [collate((item._replace(samples=(i,)),)) for i in item.samples]
    first = batches[0]
    border = _context_length(first.layout, [int(b.predictors[0]) for b in batches], [b.input_ids[0] for b in batches])
    fields = (first.layout.sample, first.layout.segment, first.layout.kind, first.layout.position)
    layout = Layout(*(x[:, :border] for x in fields))
    out = model(input_ids=first.input_ids[:, :border], position_ids=layout.position, layout=layout, use_cache=True)
    cache = out.past_key_values
    seen = layout.kind[0] != Kind.LEAD
    for cached in cache.layers:
        cached.keys, cached.values = cached.keys[:, :, seen], cached.values[:, :, seen]
    answers: list[list[int]] = []
    for batch in batches:
        prompt = int(batch.predictors[0]) + 1
        ids, own = batch.input_ids[:, border:prompt], copy.deepcopy(cache)
        position, past = int(batch.layout.position[0, border]), int(seen.sum())
        answer: list[int] = []
        while len(answer) < MOST_TOKENS:
            length = ids.shape[1]
            mask = torch.ones(length, past + length, dtype=torch.bool).tril(past)[None, None]
            places = torch.arange(position, position + length)[None]
            out = model(input_ids=ids, position_ids=places, past_key_values=own, attention_mask=mask, use_cache=True)
            answer.append(int(out.logits[0, -1].argmax()))
            if answer[-1] in ends:
                break
            position, past = position + length, past + length
            ids = torch.tensor([[answer[-1]]])
        answers.append(answer)
    return answers


def _context_length(layout: Layout, predictors: list[int], ids: list[torch.Tensor]) -> int:
    """Tokens before the final block; in full mode, those that all questions share."""
    if bool((layout.kind[0] != Kind.FINAL).any()):
        return int((layout.kind[0] == Kind.FINAL).nonzero()[0])
    shortest = min(predictors)
    same = np.logical_and.reduce([np.asarray(x[:shortest]) == np.asarray(ids[0][:shortest]) for x in ids])
    return shortest if same.all() else int(np.argmin(same))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rag", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--repair")
    parser.add_argument("--lead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a line a question, with both modes' answers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.model)
    settings = settings_of(options)
    lora = None
    if options.adapter:
        assert saved_adapter(Path(options.adapter))
        config = json.loads((Path(options.adapter) / "adapter_config.json").read_text())
        lora = LoraSettings(rank=config["r"], alpha=config["lora_alpha"], adapter=options.adapter)
    model: Any = load_model(settings, "segments", lora=lora, dtype=torch.float32, tokenizer=tokenizer).eval()
    if lora is not None:
        model = model.merge_and_unload()
    files = SampleFiles([options.data])
    opening = opening_of(tokenizer, "")
    index = files.index(Limits(model.config.vocab_size, 10**6, opening.lengths()))
    encoding = encoding_of(tokenizer, settings)
    collate = Collator(files, index, opening, encoding=encoding)
    gold = {row["id"]: row["answers"] for row in map(json.loads, options.rag.open(encoding="utf-8"))}
    end = tokenizer.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or [])
    told: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        packing = PackingOptions((mode,), opening.lengths(), 10**6, True, 1, 1)
        numbers = [item for row in plan_rows(index, packing, None) for item in row]
        started, right, exact, words, asked = time.process_time(), 0, 0, 0, 0
        for item in numbers:
            if asked >= options.questions:
                break
            item = item._replace(samples=item.samples[: options.questions - asked])
            for i, ids in zip(item.samples, answers_of(model, collate, item, ends), strict=True):
                name = collate((Item("full", (i,), 0),)).sample_ids[0]
                text = str(tokenizer.decode(ids, skip_special_tokens=True))
                answer, golds = normalized(text), [normalized(x) for x in gold[name]]
                is_right, is_exact = any(holds(answer, x) for x in golds), answer in golds
                asked, right, exact = asked + 1, right + is_right, exact + is_exact
                words += len(answer.split())
                told.setdefault(name, {"id": name, "answers": gold[name]})[mode] = text
        print(
            f"{mode}: {asked} questions, subspan {100 * right / asked:.1f}, exact {100 * exact / asked:.1f}, "
            f"{words / asked:.1f} words an answer, {time.process_time() - started:.0f} s of a core",
            flush=True,
        )
    if options.output:
        options.output.write_text("".join(f"{json.dumps(row)}\n" for row in told.values()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
