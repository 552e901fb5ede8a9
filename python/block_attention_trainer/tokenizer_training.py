"""From nothing: a tokenizer from text, and samples of text."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase

from .models import ModelError, tokenize
from .samples import IGNORED, DataError
from .settings import TokenizerSettings


def train_tokenizer(settings: TokenizerSettings, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json: byte-level BPE, digits one by one.

    Raises DataError, one line, for a text that cannot be read.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in settings.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_text(settings.text), trainer)
    if settings.bos_token is not None:
        pair = (settings.bos_token, tokenizer.token_to_id(settings.bos_token))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{pair[0]} $A", special_tokens=[pair])
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "tokenizer.json.partial"
    tokenizer.save(str(unfinished))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": settings.eos_token,
        "pad_token": settings.pad_token,
        "add_bos_token": settings.bos_token is not None,
        "clean_up_tokenization_spaces": False,
    }
    if settings.bos_token is not None:
        config["bos_token"] = settings.bos_token
    if settings.chat_template is not None:
        config["chat_template"] = settings.chat_template
    unfinished_config = folder / "tokenizer_config.json.partial"
    unfinished_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # The config last: where it stands, the tokenizer is whole.
    unfinished.replace(folder / "tokenizer.json")
    unfinished_config.replace(folder / "tokenizer_config.json")


def write_text_samples(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, num_opening: int, path: Path
) -> None:
    """Cuts text into samples of at most `max_tokens`, whose first token is the prompt and whose rest is learned.

    Texts end with the tokenizer's end token. Raises ModelError where a sample could hold no target.
    """
    size = max_tokens - num_opening
    if size < 2:
        raise ModelError(f"Cannot learn text: a sample has at most {size} tokens after BOS, wanted 2 or more")
    end = tokenizer.eos_token_id
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.int32())),
            ("labels", pa.list_(pa.int32())),
            ("block_lengths", pa.list_(pa.int32())),
            ("modes", pa.list_(pa.string())),
            ("sample_id", pa.string()),
        ]
    )
    unfinished = path.with_suffix(".unfinished")
    with pq.ParquetWriter(unfinished, schema) as writer:
        ids: list[int] = []
        rows: list[dict[str, object]] = []
        number = 0
        for text in texts:
            for line in read_text([text]):
                ids += tokenize(tokenizer, line)
                while len(ids) >= size:
                    rows.append(_row(ids[:size], number))
                    ids, number = ids[size:], number + 1
                if len(rows) >= 2000:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows = []
            if isinstance(end, int):
                ids.append(end)
        if len(ids) >= 2:
            rows.append(_row(ids[:size], number))
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    unfinished.rename(path)


def _row(ids: list[int], number: int) -> dict[str, object]:
    return {
        "input_ids": ids,
        "labels": [IGNORED, *ids[1:]],
        "block_lengths": [1],
        "modes": ["full"],
        "sample_id": f"text-{number}",
    }


def read_text(paths: list[str]) -> Iterator[str]:
    """Line by line, with their ends. Raises DataError, one line, for a file that is missing or no UTF-8."""
    for path in paths:
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                yield from file
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f'Cannot read "{path}": {error}') from error
