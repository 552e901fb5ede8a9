"""Embeddings of texts by mean pooling: lines of JSON in, lines of JSON out."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

MAX_TOKENS = 512
"""A longer text is cut, special tokens counted; a model with fewer positions cuts sooner."""


class EmbeddingError(ValueError):
    """A model or a request that cannot be used; the message is one line."""


class Embedder:
    """A Hugging Face encoder whose last hidden states are averaged over a text's tokens, not normalized.

    That is what facebook/contriever-msmarco was trained for: two texts fit as well as their dot product is high.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        """Raises EmbeddingError for a folder without a whole encoder, and for a batch size below 1."""
        if batch_size < 1:
            raise EmbeddingError(f"Cannot embed: the batch size is {batch_size}, wanted 1 or more")
        if not folder.is_dir():
            raise EmbeddingError(f'Cannot load an embedding model from "{folder}": it is no folder')
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if getattr(config, "is_encoder_decoder", False):
                raise EmbeddingError("it is an encoder with a decoder, wanted an encoder alone")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = _load(folder).to(self.device).eval()
        except Exception as error:  # a damaged file fails in any library's own way
            raise EmbeddingError(f'Cannot load an embedding model from "{folder}": {_one_line(error)}') from error
        self.max_tokens = min(MAX_TOKENS, self.tokenizer.model_max_length, _positions(self.model))
        self.dimensions = int(self.model.config.hidden_size)

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        """Returns embeddings [texts, dimensions] in float32, in the order of the texts."""
        if not texts:
            return torch.zeros(0, self.dimensions)
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, add_special_tokens=True)
        ids: list[list[int]] = encoded["input_ids"]
        # Texts of like length stand in one batch, so that little of it is padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        embeddings = torch.zeros(len(ids), self.dimensions)
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            embeddings[batch] = self._mean([ids[i] for i in batch]).float().cpu()
        return embeddings

    def _mean(self, ids: list[list[int]]) -> Tensor:
        longest = max(1, *(len(each) for each in ids))
        pad = self.tokenizer.pad_token_id or 0
        padded = torch.tensor([each + [pad] * (longest - len(each)) for each in ids], device=self.device)
        lengths = torch.tensor([len(each) for each in ids], device=self.device)
        mask = torch.arange(longest, device=self.device) < lengths[:, None]
        states = self.model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        # A text without tokens has the zero vector, whatever the model makes of an empty row.
        return states.masked_fill(~mask[..., None], 0).sum(1) / lengths.clamp(min=1)[:, None]


def serve(embedder: Embedder, lines: Iterable[str], answer: Callable[[str], object]) -> None:
    """Answers each line `{"texts": [...]}` with `{"embeddings": [...]}`, each base64 of little-endian float32.

    The first answer comes before the first line, when the model is ready: `{"dimensions": n}`.
    Raises EmbeddingError for a line that is none, and for embeddings that are no numbers.
    """
    answer(json.dumps({"dimensions": embedder.dimensions}))
    for number, line in enumerate(lines, 1):
        try:
            texts = json.loads(line).get("texts")
        except (ValueError, AttributeError) as error:
            raise EmbeddingError(f"Cannot embed line {number}: it is no JSON object") from error
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise EmbeddingError(f'Cannot embed line {number}: its "texts" are no list of texts')
        embeddings = embedder.embed(texts)
        if not bool(torch.isfinite(embeddings).all()):
            raise EmbeddingError(f"Cannot embed line {number}: the model gives no finite numbers")
        rows = [base64.b64encode(row.numpy().astype("<f4").tobytes()).decode("ascii") for row in embeddings]
        answer(json.dumps({"embeddings": rows}))


def serve_standard_streams(folder: Path, batch_size: int) -> None:
    """Serves standard input and output. What libraries print goes to standard error."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n") as out:
        os.dup2(2, 1)

        def answer(line: str) -> None:
            out.write(f"{line}\n")
            out.flush()

        try:
            serve(Embedder(folder, batch_size), sys.stdin, answer)
        finally:
            os.dup2(out.fileno(), 1)


def _load(folder: Path) -> Any:
    """Raises EmbeddingError where weights are missing: Transformers would draw them at random."""
    model, info = AutoModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    missing = sorted(str(key) for key in info["missing_keys"] if not str(key).startswith("pooler."))
    if missing:
        raise EmbeddingError(f'its weights lack "{missing[0]}" and {len(missing) - 1} others')
    return model


def _positions(model: Any) -> int:
    """How many tokens the model has positions for; those of RoBERTa begin after its padding's."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return MAX_TOKENS
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return positions if module.padding_idx is None else positions - module.padding_idx - 1
    return positions


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
