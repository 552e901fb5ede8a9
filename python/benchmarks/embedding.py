"""Passages a second of `data retrieve --method dense`, against sentence-transformers on the same weights.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.embedding [--model FOLDER] [--rows 20] [--batch-size 32]

Without --model, an encoder of contriever's shape (BERT base, 110 M weights) with random weights and a WordPiece
vocabulary learned from the passages: how long it takes does not depend on what weights say. Ten passages a row, and its
question. Three ways, in turn: the embedding process' own work, 32 rows at a time as the command sends them;
sentence-transformers' encode() over all texts; the whole command, start included. The largest difference of the two
ways' embeddings is told.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from block_attention_trainer.embed import Embedder

ROOT = Path(__file__).resolve().parents[2]
ROWS_PER_PIECE = 32
PASSAGES_PER_ROW = 10
WORDS = re.findall(
    r"\w+",
    "the of and in a to was is film by director born she he American novel river city band album award first "
    "university later son mother queen station between during government population music series",
)


def text_of(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def rows_of(count: int) -> list[dict[str, object]]:
    rng = random.Random(42)
    return [
        {
            "id": f"r{i}",
            "question": text_of(rng, 8, 16),
            "answers": ["x"],
            "documents": [
                {"title": text_of(rng, 1, 3), "text": text_of(rng, 60, 140)} for _ in range(PASSAGES_PER_ROW)
            ],
        }
        for i in range(count)
    ]


def write_encoder(folder: Path, texts: list[str]) -> None:
    learned = BertWordPieceTokenizer(lowercase=True)
    learned.train_from_iterator(texts, vocab_size=2000, show_progress=False)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    learned.save(str(folder / "learned.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "learned.json"), model_max_length=512, **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(42)
    BertModel(BertConfig()).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    rows = rows_of(options.rows)
    pieces = [
        [text for row in rows[i : i + ROWS_PER_PIECE] for text in texts_of(row)]
        for i in range(0, len(rows), ROWS_PER_PIECE)
    ]
    texts = [text for piece in pieces for text in piece]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or Path(temporary) / "encoder"
        if options.model is None:
            folder.mkdir()
            write_encoder(folder, texts)
        embedder = Embedder(folder, options.batch_size)
        transformer = Transformer(str(folder), max_seq_length=embedder.max_tokens)
        theirs = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())])
        embedder.embed(texts[:8])
        theirs.encode(texts[:8], batch_size=options.batch_size, show_progress_bar=False)

        started = time.perf_counter()
        own = torch.cat([embedder.embed(piece) for piece in pieces]).numpy()
        own_s = time.perf_counter() - started
        started = time.perf_counter()
        other = np.asarray(theirs.encode(texts, batch_size=options.batch_size, show_progress_bar=False))
        other_s = time.perf_counter() - started

        source = Path(temporary) / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = ["node", str(ROOT / "dist" / "cli" / "main.js"), "data", "retrieve", "--method", "dense"]
        command += ["--embedding-model", str(folder), "--python", sys.executable, "--input", str(source)]
        command += ["--batch-size", str(options.batch_size), "--output", str(Path(temporary) / "best.jsonl")]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command_s = time.perf_counter() - started

    passages = len(rows) * PASSAGES_PER_ROW
    print(
        f"{len(texts)} texts, {passages} of them passages; batches of {options.batch_size}; "
        f"{torch.get_num_threads()} threads"
    )
    print(f"largest difference of an embedding's number: {np.abs(own - other).max():.2e}")
    for name, seconds in (("ours", own_s), ("sentence-transformers", other_s), ("data retrieve, whole", command_s)):
        print(f"{name}: {passages / seconds:.2f} passages/s, {seconds:.1f} s, {other_s / seconds:.2f} x")


def texts_of(row: dict[str, object]) -> list[str]:
    documents = row["documents"]
    assert isinstance(documents, list)
    return [str(row["question"]), *(str(document["text"]) for document in documents)]


if __name__ == "__main__":
    main()
