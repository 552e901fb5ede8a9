"""The same tasks in Transformers: one forward pass over the whole prompt with the block mask written out, in float32.

Nothing of the plug-ins is used here, and blocks are found by other means: by a regular expression over the text.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class TransformersReference:
    """A model, slow and obvious."""

    def __init__(self, folder: Path, mode: str, border: str) -> None:
        """Of a Hugging Face folder; `border` is a pattern of the places between blocks."""
        # The model is tiny: more threads only wait for each other.
        torch.set_num_threads(1)
        self.mode = mode
        self.border = re.compile(border)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.model = model.eval()

    def conversation(self, messages: list[dict[str, str]], opens_answer: bool = True) -> str:
        """The messages as text."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens_answer)
        assert isinstance(text, str)
        return text

    def blocks(self, text: str) -> list[list[int]]:
        """Each block's ids."""
        texts = [text] if self.mode == "full" else self.border.split(text)
        return [self.tokenizer.encode(block, add_special_tokens=False) for block in texts]

    def logprobs(self, blocks: list[list[int]]) -> torch.Tensor:
        """[T tokens, vocabulary]: what row t says of token t + 1. A row sees its block; the final block sees all."""
        ids = [token for block in blocks for token in block]
        block_of = [i for i, block in enumerate(blocks) for _ in block]
        final = len(blocks) - 1
        rows = [[k <= q and block_of[q] in (final, block_of[k]) for k in range(len(ids))] for q in range(len(ids))]
        mask = torch.where(torch.tensor(rows), 0.0, torch.finfo(torch.float32).min)[None, None]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0]
        return logits.double().log_softmax(-1)

    def continuation(self, context: str, continuation: str) -> tuple[list[int], list[float], bool]:
        """The ids that a continuation adds to its context, their log-probabilities, whether each is the likeliest."""
        whole = self.blocks(context + continuation)
        before = self.blocks(context.rstrip())
        assert len(whole) == len(before)
        length = len(whole[-1]) - len(before[-1])
        ids = whole[-1][-length:]
        rows = self.logprobs(whole)[-length - 1 : -1]
        scores = [float(row[token]) for row, token in zip(rows, ids, strict=True)]
        return ids, scores, rows.argmax(-1).tolist() == ids

    def answer(self, context: str, stops: Sequence[str], max_tokens: int) -> tuple[str, list[int], list[float]]:
        """Greedy: the text before a stop, and all tokens that were written with their log-probabilities."""
        blocks = self.blocks(context)
        ids: list[int] = []
        scores: list[float] = []
        text = ""
        for _ in range(max_tokens):
            row = self.logprobs([*blocks[:-1], blocks[-1] + ids])[-1]
            token = int(row.argmax())
            if token == self.tokenizer.eos_token_id:
                break
            ids.append(token)
            scores.append(float(row[token]))
            text = self.tokenizer.decode(ids)
            found = [text.index(stop) for stop in stops if stop in text]
            if found:
                text = text[: min(found)]
                break
        return text, ids, scores
