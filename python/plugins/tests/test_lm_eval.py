"""Small tasks in lm-evaluation-harness over the server, against the same tasks in Transformers."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: requirements-lm-eval.txt")
pytest.importorskip("torch", reason="PyTorch is not installed, which the reference runs on")

import requests  # noqa: E402
from block_attention_prompts.cuts import BlockPrompt  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval_block_attention.models import BlockAttentionChatCompletions, BlockAttentionCompletions  # noqa: E402
from lm_eval_block_attention.opencompass_export import main as export  # noqa: E402
from lm_eval_block_attention.opencompass_export import opencompass_predictions  # noqa: E402
from transformers_reference import TransformersReference  # noqa: E402

LOGPROB_BOUND = 5e-2
NUM_QUESTIONS = 3

PEOPLE = [
    ("Sean Penn", "Eileen Ryan", "Into the Wild"),
    ("Ann Lee", "Mary Cole", "The Long Road"),
    ("Tom Ford", "Jane Hill", "A Quiet Day"),
    ("Paul Reed", "Alice Stone", "North Wind"),
    ("Mark Webb", "Susan Gray", "The Last Train"),
    ("John Hart", "Ellen West", "Summer Rain"),
    ("Carl Moss", "Nora Field", "Blue Water"),
]


def document(i: int) -> dict[str, Any]:
    name, mother, film = PEOPLE[i]
    text = (
        f"- Title: {film}\n{film} is a film directed by {name}.\n"
        f"- Title: {name}\n{name} is the son of actress {mother}.\n"
        f"Question: Who is the mother of the director of film {film}?"
    )
    others = [PEOPLE[(i + k) % len(PEOPLE)][1] for k in (1, 2)]
    return {"text": text, "answer": f"The mother of {name} is {mother}.", "choices": [*others, mother], "gold": 2}


SETTINGS: dict[str, dict[str, Any]] = {
    "tiny_generate": {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """The harness' own format over local files: two demonstrations, and a few questions."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, documents in {"train": range(2), "test": range(2, 2 + NUM_QUESTIONS)}.items():
        lines = "".join(json.dumps(document(i)) + "\n" for i in documents)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for name, settings in SETTINGS.items():
        for suffix, text in {"": "{{text}}", "_plain": "Q: {{text}}\nA:"}.items():
            task = {
                "task": name + suffix,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}},
                "test_split": "test",
                "fewshot_split": "train",
                "fewshot_config": {"sampler": "first_n"},
                "num_fewshot": 2,
                "doc_to_text": text,
                **settings,
            }
            # JSON is YAML.
            (folder / f"{name}{suffix}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(model: LM, tasks: TaskManager, names: list[str], chat: bool) -> dict[str, Any]:
    found: dict[str, Any] = lm_eval.evaluate(
        lm=model,
        task_dict=tasks.load(names),
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
    )
    return found


def reference(mode: str, chat: bool) -> TransformersReference:
    return TransformersReference(MODEL, mode, r"(?<=<\|eos\|>\n)" if chat else r"(?=\n\nQ: )")


class ReferenceModel(LM):  # type: ignore[misc]
    """Transformers as a model of the harness."""

    def __init__(self, mode: str, chat: bool) -> None:
        super().__init__()
        self.reference = reference(mode, chat)

    @property
    def tokenizer_name(self) -> str:
        return "reference"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.reference.conversation(chat_history, add_generation_prompt)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        asked = [request.args for request in requests]
        return [self.reference.answer(text, how["until"], how["max_gen_toks"])[0] for text, how in asked]

    def loglikelihood(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        scored = [self.reference.continuation(*request.args) for request in requests]
        return [(sum(scores), is_greedy) for _, scores, is_greedy in scored]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("chat", "mode", "concurrent"),
    [(True, "block", 1), (True, "full", 4), (False, "block", 4), (False, "full", 1)],
    ids=["chat-block", "chat-full", "plain-block", "plain-full"],
)
def test_tasks_equal_transformers(server: str, tasks: TaskManager, chat: bool, mode: str, concurrent: int) -> None:
    names = list(SETTINGS) if chat else [f"{name}_plain" for name in SETTINGS]
    asked: dict[str, Any] = {"base_url": server, "mode": mode, "num_concurrent": concurrent}
    asked |= {"tokenizer": str(MODEL)} if chat else {"cut": "bbh"}
    # As the harness' command line makes it.
    model = get_model("block-attention-completions").create_from_arg_obj(asked, {"batch_size": 1, "device": None})
    got = evaluate(model, tasks, names, chat)
    wanted = evaluate(ReferenceModel(mode, chat), tasks, names, chat)
    for name in names:
        metrics = [key for key in wanted["results"][name] if key.endswith(",none") and "stderr" not in key]
        assert metrics
        for metric in metrics:
            assert got["results"][name][metric] == wanted["results"][name][metric]
        assert len(got["samples"][name]) == NUM_QUESTIONS
        for one, other in zip(got["samples"][name], wanted["samples"][name], strict=True):
            assert one["doc_id"] == other["doc_id"]
            assert one["arguments"] == other["arguments"]
            if "generate" in name:
                assert one["resps"] == other["resps"]
                assert one["resps"][0][0] != ""
                continue
            for ((score, is_greedy),), ((right, is_right_greedy),) in zip(one["resps"], other["resps"], strict=True):
                assert float(score) == pytest.approx(float(right), abs=LOGPROB_BOUND)
                assert str(is_greedy) == str(is_right_greedy)


def test_demonstrations_come_from_the_store(server: str) -> None:
    """As chat: two rounds and the query. The second question's rounds are there already."""
    model = BlockAttentionCompletions(base_url=server, tokenizer=str(MODEL))
    rounds = [
        {"role": r, "content": document(i)[k]} for i in (0, 1) for r, k in (("user", "text"), ("assistant", "answer"))
    ]
    answers = []
    for i in (2, 3):
        prompt = model.apply_chat_template([*rounds, {"role": "user", "content": document(i)["text"]}])
        assert isinstance(prompt, BlockPrompt)
        assert prompt.blocks[:2] == tuple(
            f"<|user|>\n{document(d)['text']}<|assistant|>\n{document(d)['answer']}<|eos|>\n" for d in (0, 1)
        )
        answer = requests.post(f"{server}/v1/completions", json=model._create_payload(prompt, True, {}), timeout=60)
        answers.append(answer.json())
    assert [len(answer["block_attention"]["blocks"]) for answer in answers] == [2, 2]
    assert all(block["hit"] for block in answers[1]["block_attention"]["blocks"])


@pytest.mark.parametrize("mode", ["block", "full"])
def test_every_token_equals_transformers(server: str, mode: str) -> None:
    model = BlockAttentionCompletions(base_url=server, tokenizer=str(MODEL), mode=mode)
    oracle = reference(mode, chat=True)
    rounds = [
        {"role": r, "content": document(i)[k]} for i in (0, 1) for r, k in (("user", "text"), ("assistant", "answer"))
    ]
    for i in range(2, 5):
        prompt = model.apply_chat_template([*rounds, {"role": "user", "content": document(i)["text"]}])
        payload = model._create_payload(prompt, generate=True, gen_kwargs={"until": ["\n"], "max_gen_toks": 16}) | {
            "logprobs": 1
        }
        answer = requests.post(f"{server}/v1/completions", json=payload | {"logprobs": 1}, timeout=60).json()
        (choice,) = answer["choices"]
        text, ids, scores = oracle.answer(prompt, ["\n"], 16)
        assert choice["text"] == text
        # The token that ended the answer stands last.
        assert choice["logprobs"]["tokens"][: len(ids)] == [oracle.tokenizer.decode([token]) for token in ids]
        assert choice["logprobs"]["token_logprobs"][: len(ids)] == pytest.approx(scores, abs=LOGPROB_BOUND)

        whole, length = model._scored_prompt(prompt, document(i)["answer"])
        echoed = requests.post(f"{server}/v1/completions", json=model._create_payload(whole), timeout=60).json()
        ids, scores, _ = oracle.continuation(prompt, document(i)["answer"])
        told = echoed["choices"][0]["logprobs"]
        assert length == len(ids)
        assert told["tokens"][-length:] == [oracle.tokenizer.decode([token]) for token in ids]
        assert told["token_logprobs"][-length:] == pytest.approx(scores, abs=LOGPROB_BOUND)


def test_texts_without_context_equal_transformers(server: str) -> None:
    model = BlockAttentionCompletions(base_url=server, tokenizer=str(MODEL), mode="full")
    oracle = reference("full", chat=False)
    text = "Sean Penn is an American film director."
    ids = oracle.tokenizer.encode(text, add_special_tokens=False)
    rows = oracle.logprobs([[oracle.tokenizer.eos_token_id, *ids]])
    wanted = sum(float(row[token]) for row, token in zip(rows, ids, strict=False))
    (rolling,) = model.loglikelihood_rolling([instance("loglikelihood_rolling", text)])
    ((alone, _),) = model.loglikelihood([instance("loglikelihood", "", text)])
    assert rolling == pytest.approx(wanted, abs=LOGPROB_BOUND)
    assert alone == pytest.approx(wanted, abs=LOGPROB_BOUND)


def instance(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_chat_completions_run_in_full_mode(server: str, tasks: TaskManager) -> None:
    got = evaluate(BlockAttentionChatCompletions(base_url=server), tasks, ["tiny_generate"], True)
    wanted = evaluate(ReferenceModel("full", True), tasks, ["tiny_generate"], True)
    answers = [sample["resps"] for sample in got["samples"]["tiny_generate"]]
    assert answers == [sample["resps"] for sample in wanted["samples"]["tiny_generate"]]
    exported = opencompass_predictions(got["samples"]["tiny_generate"])
    assert [one["prediction"] for one in exported.values()] == [answer[0][0] for answer in answers]


def test_command_line_logs_samples_that_are_exported(server: str, tasks: TaskManager, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lm_eval_block_attention", "run", "--model", "block-attention-completions"]
    options = {
        "--model_args": f"base_url={server}/v1,mode=block,tokenizer={MODEL},num_concurrent=2",
        "--tasks": ",".join(SETTINGS),
        "--include_path": str(tasks.include_path),
        "--output_path": str(tmp_path / "out"),
    }
    flags = [part for pair in options.items() for part in pair]
    done = subprocess.run(
        [*command, *flags, "--apply_chat_template", "--log_samples"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(results.read_text(encoding="utf-8"))["results"]["tiny_choice"]["acc,none"]
    for name in SETTINGS:
        (samples,) = (tmp_path / "out").rglob(f"samples_{name}_*.jsonl")
        exported = tmp_path / "predictions" / f"{name}.json"
        assert export(["--samples", str(samples), "--output", str(exported)]) == 0
        predictions = list(json.loads(exported.read_text(encoding="utf-8")).values())
        gold = {"tiny_generate": "answer", "tiny_choice": "choices"}[name]
        wanted = [document(i)[gold] for i in range(2, 2 + NUM_QUESTIONS)]
        assert [one["gold"] for one in predictions] == [one if isinstance(one, str) else one[2] for one in wanted]
        if name == "tiny_choice":
            assert sum(one["prediction"] == one["gold"] for one in predictions) / NUM_QUESTIONS == accuracy


@pytest.mark.parametrize("mode", ["block", "full"])
def test_begun_answers_stay_in_the_final_block(mode: str) -> None:
    """As the harness' `gen_prefix` asks: HumanEval's."""
    model = BlockAttentionCompletions(tokenizer=str(MODEL), mode=mode)
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "It is")]
    prompt = model.apply_chat_template([{"role": role, "content": text} for role, text in turns], False)
    assert prompt == "<|user|>\na<|assistant|>\nb<|eos|>\n<|user|>\nc<|assistant|>\nIt is"
    if isinstance(prompt, BlockPrompt):
        assert prompt.blocks[1] == "<|user|>\nc<|assistant|>\nIt is"
    assert isinstance(prompt, BlockPrompt) == (mode == "block")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "both"}, 'mode: it is "both"'),
        ({"cut": "gsm"}, 'cut is "gsm"'),
        ({"base_url": "localhost"}, "Cannot use base_url"),
        ({"batch_size": 4}, "Cannot use batch_size: it is 4, wanted 1"),
        ({"num_concurrent": 0}, "wanted 1 or more"),
        ({"cut_befor": "x"}, 'nothing reads "cut_befor"'),
    ],
)
def test_wrong_settings_are_told(wrong: Mapping[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BlockAttentionCompletions(**wrong)


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(ValueError, match="a message is a block there"):
        BlockAttentionChatCompletions(mode="block")
    plain = BlockAttentionCompletions()
    with pytest.raises(ValueError, match="there is no tokenizer"):
        plain.apply_chat_template([{"role": "user", "content": "a"}])
    with pytest.raises(ValueError, match="it is plain text"):
        plain.generate_until([instance("generate_until", "a\n\nQ: b", {"until": []})])
    with pytest.raises(ValueError, match="they have no final block"):
        plain.loglikelihood_rolling([instance("loglikelihood_rolling", "a")])
    with pytest.raises(ValueError, match="wanted tokenizer"):
        BlockAttentionCompletions(mode="full").loglikelihood([instance("loglikelihood", "", "a")])
