r"""Writes what lm-evaluation-harness logged as predictions in OpenCompass' format.

    python -m lm_eval_block_attention.opencompass_export --samples samples_gsm8k_….jsonl \
      --output predictions/MODEL/gsm8k.json

OpenCompass keeps a file for each model and data set, `OUTPUT/predictions/MODEL/DATASET.json`: an object of "0", "1", …
with `origin_prompt`, `prediction` and `gold`; answers that were scored instead of generated have `label: X` with what
each choice got. `opencompass CONFIG --mode eval --reuse` evaluates such a folder.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def opencompass_predictions(samples: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The predictions, numbered from 0 in the order of the harness' documents.

    Args:
        samples: lines that `--log_samples` writes. A task with several filters has a line for each: the first counts.

    Raises ValueError for lines that are no samples, or two answers to one document.
    """
    by_document: dict[int, dict[str, Any]] = {}
    filters: dict[int, str] = {}
    for sample in samples:
        document, name = sample.get("doc_id"), sample.get("filter", "none")
        if not isinstance(document, int) or not {"arguments", "resps"} <= sample.keys():
            raise ValueError('Cannot export a sample: wanted "doc_id", "arguments" and "resps"')
        if document in by_document:
            if filters[document] == name:
                raise ValueError(f"Cannot export samples: document {document} is there twice")
            continue
        filters[document] = name
        by_document[document] = _prediction(sample)
    return {str(i): by_document[document] for i, document in enumerate(sorted(by_document))}


def _prediction(sample: dict[str, Any]) -> dict[str, Any]:
    requests = [_arguments(request) for request in _values(sample["arguments"])]
    prompt = requests[0][0]
    is_scored = isinstance(requests[0][1], str)
    if not is_scored:
        (answers,) = sample["resps"]
        return {"origin_prompt": prompt, "prediction": answers[0], "gold": sample.get("target")}
    scores = [float(answers[0][0]) for answers in sample["resps"]]
    labels = [continuation.strip() for _, continuation in requests]
    told = {
        f"label: {label}": {"testing input": prompt, "prompt": prompt + continuation, "Loglikelihood": score}
        for (_, continuation), label, score in zip(requests, labels, scores, strict=True)
    }
    gold = sample.get("target")
    if isinstance(gold, str) and gold.isdecimal():
        gold = int(gold)
    if isinstance(gold, int) and gold < len(labels):
        gold = labels[gold]
    return {**told, "prediction": labels[scores.index(max(scores))], "gold": gold}


def _values(of: Any) -> list[Any]:
    return list(of.values()) if isinstance(of, dict) else list(of)


def _arguments(request: Any) -> tuple[str, Any]:
    """Context, and continuation or settings."""
    context, other = _values(request)[:2]
    # A conversation that the server renders is logged as a list that holds its JSON.
    return (context if isinstance(context, str) else context[0]), other


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON. Raises ValueError with the line's number for one that is none."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip() == "":
            continue
        try:
            sample = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f'Cannot read "{path}": line {number} is no JSON, {error}') from None
        if not isinstance(sample, dict):
            raise ValueError(f'Cannot read "{path}": line {number} is no object')
        samples.append(sample)
    return samples


def main(arguments: list[str] | None = None) -> int:
    """The command. Its exit code."""
    parser = argparse.ArgumentParser(prog="lm_eval_block_attention.opencompass_export", description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="a file that --log_samples wrote")
    parser.add_argument("--output", type=Path, required=True, help="predictions/MODEL/DATASET.json")
    asked = parser.parse_args(arguments)
    try:
        predictions = opencompass_predictions(read_samples(asked.samples))
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(predictions, indent=4, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        print(f'Cannot export to "{asked.output}": {error.strerror}, "{error.filename}"', file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(predictions)} predictions in {asked.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
