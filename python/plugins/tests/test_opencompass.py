"""A small task in OpenCompass over the server, against the same in Transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL

pytest.importorskip("opencompass", reason="OpenCompass is not installed: requirements-opencompass.txt")
pytest.importorskip("torch", reason="PyTorch is not installed, which the reference runs on")

from block_attention_prompts.cuts import CUTS, cut_text
from mmengine.config import Config
from opencompass_block_attention.model import BlockAttention
from transformers_reference import TransformersReference

LOGPROB_BOUND = 5e-2
PLUGINS = Path(__file__).parents[1]

PEOPLE = [
    ("Sean Penn", "Eileen Ryan"),
    ("Ann Lee", "Mary Cole"),
    ("Tom Ford", "Jane Hill"),
    ("Paul Reed", "Alice Stone"),
]
META_TEMPLATE = {
    "round": [{"role": "HUMAN", "api_role": "HUMAN"}, {"role": "BOT", "api_role": "BOT", "generate": True}]
}
CONFIG = """
from opencompass.datasets import CustomDataset
from opencompass.openicl.icl_evaluator import EMEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever
from block_attention_prompts.cuts import CUTS, cut_text
from opencompass_block_attention.model import BlockAttention

models = [
    dict(
        type=BlockAttention, abbr="tiny", base_url={base_url!r}, tokenizer_path={model!r}, mode={mode!r},
        meta_template={meta_template!r}, max_out_len=24, batch_size=2,
    )
]
datasets = [
    dict(
        abbr="mothers", type=CustomDataset, path={folder!r}, file_name="mothers.jsonl", local_mode=True,
        reader_cfg=dict(input_columns=["question"], output_column="answer"),
        infer_cfg=dict(
            prompt_template=dict(type=PromptTemplate, template=dict(round={turns!r})),
            retriever=dict(type=ZeroRetriever),
            inferencer=dict(type=GenInferencer, stopping_criteria=["\\n"]),
        ),
        eval_cfg=dict(evaluator=dict(type=EMEvaluator)),
    )
]
"""


def question(i: int) -> str:
    name, mother = PEOPLE[i]
    return f"- Title: {name}\n{name} is the son of actress {mother}.\nQuestion: Who is the mother of {name}?"


def answer(i: int) -> str:
    return f"The mother of {PEOPLE[i][0]} is {PEOPLE[i][1]}."


def conversation(i: int) -> list[dict[str, str]]:
    rounds = [{"role": r, "content": f(d)} for d in (0, 1) for r, f in (("user", question), ("assistant", answer))]
    return [*rounds, {"role": "user", "content": question(i)}]


def reference(mode: str) -> TransformersReference:
    return TransformersReference(MODEL, mode, r"(?<=<\|eos\|>\n)")


@pytest.mark.parametrize("mode", ["block", "full"])
def test_a_task_equals_transformers(server: str, tmp_path: Path, mode: str) -> None:
    """OpenCompass' own command line over a file of questions."""
    lines = [{"question": question(i), "answer": [answer(i)]} for i in (2, 3)]
    (tmp_path / "mothers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    turns = [
        {"role": {"user": "HUMAN", "assistant": "BOT"}[turn["role"]], "prompt": turn["content"]}
        for turn in conversation(2)[:-1]
    ]
    turns.append({"role": "HUMAN", "prompt": "{question}"})
    config = CONFIG.format(
        base_url=server, model=str(MODEL), mode=mode, meta_template=META_TEMPLATE, folder=str(tmp_path), turns=turns
    )
    (tmp_path / "config.py").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "opencompass.cli.main", str(tmp_path / "config.py"), "-w", str(tmp_path / "out")]
    paths = os.pathsep.join(path for path in (str(PLUGINS), os.environ.get("PYTHONPATH", "")) if path)
    done = subprocess.run(
        [*command, "--debug"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (predictions,) = (tmp_path / "out").glob("*/predictions/tiny/mothers*.json")
    told = json.loads(predictions.read_text(encoding="utf-8"))
    oracle = reference(mode)
    wanted = [oracle.answer(oracle.conversation(conversation(i)), ["\n"], 24)[0] for i in (2, 3)]
    assert [told[key]["prediction"] for key in ("0", "1")] == wanted
    assert all(wanted)
    (results,) = (tmp_path / "out").glob("*/results/tiny/mothers*.json")
    right = sum(text == answer(i) for text, i in zip(wanted, (2, 3), strict=True))
    assert json.loads(results.read_text(encoding="utf-8"))["score"] == pytest.approx(100 * right / 2)


@pytest.mark.parametrize("mode", ["block", "full"])
def test_log_probabilities_equal_transformers(server: str, mode: str) -> None:
    border = r"(?=\n\nQ: )"
    model = BlockAttention(base_url=server, mode=mode, cut="bbh")
    oracle = TransformersReference(MODEL, mode, border)
    demonstrations = "\n\n".join(f"Q: {question(i)}\nA: {answer(i)}" for i in (0, 1))
    texts = [f"{demonstrations}\n\nQ: {question(i)}\nA: {answer(i)}" for i in (2, 3)]
    wanted = []
    for text, i in zip(texts, (2, 3), strict=True):
        _, scores, _ = oracle.continuation(text.removesuffix(answer(i)), answer(i))
        wanted.append(sum(scores))
    got = model.get_loglikelihood(texts, [answer(i) for i in (2, 3)])
    assert list(got) == pytest.approx(wanted, abs=LOGPROB_BOUND)


def test_perplexity_equals_transformers(server: str) -> None:
    model = BlockAttention(base_url=server, mode="full")
    oracle = reference("full")
    text = question(2)
    ids = oracle.tokenizer.encode(text, add_special_tokens=False)
    rows = oracle.logprobs([ids])
    scores = [float(row[token]) for row, token in zip(rows, ids[1:], strict=False)]
    (whole,) = model.get_ppl([text])
    (masked,) = model.get_ppl([text], mask_length=[10])
    assert whole == pytest.approx(-sum(scores) / len(ids), abs=LOGPROB_BOUND)
    assert masked == pytest.approx(-sum(scores[9:]) / (len(ids) - 10), abs=LOGPROB_BOUND)
    assert model.get_token_len(text) == len(ids)


def test_wrong_settings_are_told(server: str) -> None:
    with pytest.raises(ValueError, match='mode: it is "both"'):
        BlockAttention(mode="both")
    with pytest.raises(ValueError, match='cut is "gsm"'):
        BlockAttention(cut="gsm")
    with pytest.raises(ValueError, match="it is plain text"):
        BlockAttention(base_url=server).generate(["a"], 4)
    with pytest.raises(ValueError, match="there is no tokenizer"):
        BlockAttention(base_url=server).generate([[{"role": "HUMAN", "prompt": "a"}]], 4)
    with pytest.raises(RuntimeError, match="it answered 400"):
        BlockAttention(base_url=server, mode="full", generation_kwargs={"typo": 1}).generate(["a"], 4)
    with pytest.raises(ValueError, match="does not end with it"):
        BlockAttention(base_url=server, mode="full").get_loglikelihood(["a b"], ["c"])


def test_the_paper_configuration_cuts_three_demonstrations() -> None:
    """OpenCompass' own prompts: what opens them, three demonstrations, and the query."""
    path = PLUGINS / "opencompass_block_attention" / "configs" / "paper.py"
    config = Config.fromfile(str(path), format_python_code=False)
    asked = {one["abbr"]: one["infer_cfg"]["prompt_template"]["template"] for one in config["datasets"]}
    assert len(asked["gsm8k"]["round"]) == 4 * 2 + 1
    assert len(asked["math"]["round"]) == 4 * 2 + 1
    for abbr, template in asked.items():
        name = abbr.split("-")[0]
        if name not in ("bbh", "drop"):
            continue
        (turn,) = template["round"]
        blocks = cut_text(turn["prompt"], CUTS[name])
        assert "".join(blocks) == turn["prompt"]
        assert len(blocks) == 5, abbr
    assert cut_text(asked["drop"]["round"][0]["prompt"], CUTS["drop"])[-1].startswith("# Your Task")
