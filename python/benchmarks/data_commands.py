"""The data commands' work done in the reference's way: Python, one process, whole files as lists, the json module.

    python benchmarks/data_commands.py COMMAND [ARGUMENT ...]

What `npm run bench -- data-commands` measures the commands against. Each does what the command of its name does to the
rows, less what only the command has: streaming, digests, manifests, pictures, checks of each field. The last line of
the output is {"rows": written rows, "peak_bytes": the process' own peak}.
"""

import http.client
import itertools
import json
import math
import random
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

PREAMBLE = (
    "You are an intelligent AI assistant. Please answer questions based on the user's instructions. Below are some "
    "reference documents that may help you in answering the user's question.\n\n"
)
TASK = (
    "\n\nPlease write a high-quality answer for the given question using only the provided search documents (some of "
    "which might be irrelevant).\nQuestion: "
)
CODE = re.compile(r"```(python|cpp|c|java|javascript|typescript|bash|c#|sql|go|ruby|rust|c\+\+|julia|golang)|c\+\+|c#")
DELIMITERS = ("\n\n", "---", "===", "\n\t", "\n")
MAX_TOKENS = 4096
MAX_BLOCKS = 15


def read_lines(path: str) -> list[Row]:
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_array(path: str) -> list[Row]:
    with Path(path).open(encoding="utf-8") as file:
        rows: list[Row] = json.load(file)
    return rows


def read_parquet(path: str) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def write_lines(path: str, rows: list[Row]) -> int:
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)


def spaced(sentences: list[str]) -> str:
    text = ""
    for sentence in sentences:
        touches = text != "" and sentence != "" and not text[-1].isspace() and not sentence[0].isspace()
        text += " " + sentence if touches else sentence
    return text


def multi_hop(row: Row, context: list[Any], supporting: list[Any], join: Callable[[list[str]], str]) -> Row:
    documents = [{"title": title, "text": join(sentences)} for title, sentences in context][:10]
    titles = {title for title, _ in supporting}
    return {
        "id": row["_id"],
        "kind": row["type"],
        "question": row["question"],
        "answers": [row["answer"]],
        "generated": "",
        "supports": [i for i, document in enumerate(documents) if document["title"] in titles],
        "documents": documents,
    }


def two_wiki(source: str, output: str) -> int:
    return write_lines(
        output,
        [
            multi_hop(row, json.loads(row["context"]), json.loads(row["supporting_facts"]), spaced)
            for row in read_parquet(source)
        ],
    )


def hotpot(source: str, output: str) -> int:
    return write_lines(
        output, [multi_hop(row, row["context"], row["supporting_facts"], "".join) for row in read_array(source)]
    )


def fid(source: str, output: str) -> int:
    lines = []
    for row in read_array(source):
        passages = sorted(row["ctxs"], key=lambda passage: -float(passage["score"]))[:10]
        documents = [{"title": p["title"], "text": p["text"], "score": float(p["score"])} for p in passages]
        lines.append(
            {
                "id": row["id"],
                "question": row["question"],
                "answers": row["answers"],
                "generated": "",
                "supports": [i for i, p in enumerate(passages) if p["has_answer"]],
                "documents": documents,
            }
        )
    return write_lines(output, lines)


def retrieve(source: str, output: str) -> int:
    rows = read_lines(source)
    split = re.compile(r"\w+").findall
    tokenized = [[split(document["text"].lower()) for document in row["documents"]] for row in rows]
    frequency: dict[str, int] = {}
    count, total = 0, 0
    for documents in tokenized:
        for words in documents:
            count, total = count + 1, total + len(words)
            for word in set(words):
                frequency[word] = frequency.get(word, 0) + 1
    mean = total / count
    weight = {word: math.log(1 + (count - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    for row, documents in zip(rows, tokenized, strict=True):
        query = split(row["question"].lower())
        for document, words in zip(row["documents"], documents, strict=True):
            counts: dict[str, int] = {}
            for word in words:
                counts[word] = counts.get(word, 0) + 1
            norm = 1.2 * (0.25 + 0.75 * len(words) / mean)
            document["score"] = sum(
                weight.get(word, 0.0) * counts[word] * 2.2 / (counts[word] + norm) for word in query if word in counts
            )
        row["documents"] = sorted(row["documents"], key=lambda document: -document["score"])[:5]
    return write_lines(output, rows)


def sample(source: str, output: str, count: str) -> int:
    random.seed(42)
    return write_lines(output, random.sample(read_lines(source), int(count)))


def merge(first: str, second: str, output: str) -> int:
    return write_lines(output, read_lines(first) + read_lines(second))


def mix(first: str, second: str, output: str) -> int:
    random.seed(42)
    rows, others = read_lines(first), read_lines(second)
    size = min(len(rows), len(others))
    mixed = random.sample(rows, size) + random.sample(others, size)
    random.shuffle(mixed)
    return write_lines(output, mixed)


def convert(source: str, output: str) -> int:
    lines = []
    for row in read_lines(source):
        passages = [f"- Title: {document['title']}\n{document['text'].strip()}\n" for document in row["documents"]]
        final = f"{TASK}{row['question']}"
        blocks = [f"<|user|>\n{PREAMBLE}", *passages, f"{final}\n<|assistant|>\n"]
        lines.append(
            {"id": row["id"], "prompt": "".join(blocks), "blocks": blocks, "response": row["generated"]},
        )
    return write_lines(output, lines)


def answer(source: str, output: str, url: str) -> int:
    """One question after another over one connection."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    rows = read_lines(source)
    for row in rows:
        text = "\n".join(f"- Title: {document['title']}\n{document['text']}" for document in row["documents"])
        messages = [{"role": "user", "content": f"{PREAMBLE}{text}{TASK}{row['question']}"}]
        body = json.dumps({"model": "m", "messages": messages, "temperature": 0, "max_tokens": 200}).encode()
        connection.request("POST", f"{place.path}/chat/completions", body, {"Content-Type": "application/json"})
        row["generated"] = json.loads(connection.getresponse().read())["choices"][0]["message"]["content"]
    return write_lines(output, rows)


def validate(source: str) -> int:
    rows = read_lines(source)
    for row in rows:
        if not isinstance(row["question"], str) or not all(isinstance(text, str) for text in row["answers"]):
            raise ValueError(f"a wrong row: {row['id']}")
        for document in row["documents"]:
            if not isinstance(document["title"], str) or not isinstance(document["text"], str):
                raise ValueError(f"a wrong document: {row['id']}")
    return len(rows)


def pieces_of(text: str) -> list[str]:
    delimiter = next((delimiter for delimiter in DELIMITERS if delimiter in text), None)
    if delimiter is None:
        return [text]
    parts = text.split(delimiter)
    return [part for part in [*(part + delimiter for part in parts[:-1]), parts[-1]] if part]


def merged(pieces: list[str]) -> list[str]:
    """At most `MAX_BLOCKS`: the last is never merged, the neighbours with the fewest characters go together."""
    pieces = list(pieces)
    while len(pieces) > MAX_BLOCKS:
        sizes = [len(a) + len(b) for a, b in itertools.pairwise(pieces[:-1])]
        at = sizes.index(min(sizes))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def tulu3(source: str, output_folder: str, tokenizer_folder: str) -> int:
    """Answers as lines for full mode, and those that block training takes, cut; lengths by the tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    marks = {"system": ("<|system|>\n", "\n"), "user": ("<|user|>\n", "\n")}
    marks["assistant"] = ("<|assistant|>\n", "<|end_of_text|>\n")

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    random.seed(42)
    full: list[Row] = []
    block: list[Row] = []
    for row in read_parquet(source):
        messages = row["messages"]
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = messages[:i]
            prompt = "".join(marks[m["role"]][0] + m["content"] + marks[m["role"]][1] for m in before)
            prompt += "<|assistant|>\n"
            response = message["content"] + "<|end_of_text|>"
            response_ids = ids_of(response)
            if len(ids_of(prompt)) + len(response_ids) < MAX_TOKENS:
                full.append({"id": row["id"], "prompt": prompt, "blocks": [prompt], "response": response})
            if i > 1:
                earlier = before[:-1]
                cut = [pieces_of(m["content"]) if len(earlier) < 12 else [m["content"]] for m in earlier]
                chunks = []
                for m, pieces in zip(earlier, cut, strict=True):
                    start, end = marks[m["role"]]
                    chunks += [start + pieces[0], *pieces[1:]]
                    chunks[-1] += end
                chunks.append(marks["user"][0] + before[-1]["content"] + marks["user"][1])
            else:
                chunks = pieces_of(before[0]["content"])
                chunks[0] = marks["user"][0] + chunks[0]
                chunks[-1] += marks["user"][1]
                if len(chunks) == 1 or random.random() >= 0.45:
                    continue
            chunks = merged(chunks)
            chunks[-1] += "<|assistant|>\n"
            if sum(len(ids_of(chunk)) for chunk in chunks) + len(response_ids) >= MAX_TOKENS:
                continue
            is_code = CODE.search(prompt + response) is not None
            block.append(
                {"id": row["id"], "prompt": prompt, "blocks": chunks, "response": response, "train_block": not is_code}
            )
    folder = Path(output_folder)
    folder.mkdir(exist_ok=True)
    return write_lines(str(folder / "sft.jsonl"), full) + write_lines(str(folder / "block.jsonl"), block)


def pack(source: str, output: str, tokenizer_folder: str) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    samples = []
    for row in read_lines(source):
        blocks = [tokenizer.encode(block, add_special_tokens=False) for block in row["blocks"]]
        response = tokenizer.encode(row["response"], add_special_tokens=False)
        prompt = [i for block in blocks for i in block]
        samples.append(
            {
                "input_ids": prompt + response,
                "labels": [-100] * len(prompt) + response,
                "block_lengths": [len(block) for block in blocks],
                "modes": ["block", "full"],
                "sample_id": row["id"],
            }
        )
    ids = pa.list_(pa.int32())
    schema = pa.schema(
        [
            ("input_ids", ids),
            ("labels", ids),
            ("block_lengths", ids),
            ("modes", pa.list_(pa.string())),
            ("sample_id", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(samples, schema=schema), output)
    return len(samples)


COMMANDS: dict[str, Callable[..., int]] = {
    "2wiki": two_wiki,
    "hqa": hotpot,
    "nq": fid,
    "tqa": fid,
    "retrieve": retrieve,
    "sample": sample,
    "merge": merge,
    "mix": mix,
    "convert": convert,
    "answer": answer,
    "validate": validate,
    "tulu3": tulu3,
    "pack": pack,
}


def main() -> None:
    num_rows = COMMANDS[sys.argv[1]](*sys.argv[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    print(json.dumps({"rows": num_rows, "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}))


if __name__ == "__main__":
    main()
