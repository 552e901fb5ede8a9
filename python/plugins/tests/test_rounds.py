"""Rounds as blocks, over chat templates of several kinds."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from block_attention_prompts.cuts import CUTS, cut_text
from block_attention_prompts.rounds import Message, Render, cut_rounds

jinja2 = pytest.importorskip("jinja2", reason="chat templates need jinja2")

TULU = Path(__file__).parents[3] / "tests" / "fixtures" / "templates" / "tulu-3.jinja"

LLAMA = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Prints the last answer otherwise than earlier ones, as templates of models that think do.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_SYSTEM_ALONE = (
    "{% if messages | length == 1 and messages[0].role == 'system' %}{{ 1 / 0 }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
)
SHOUTS = "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}"


def renderer(template: str) -> Render:
    compiled = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)

    def render(messages: Sequence[Message], opens_answer: bool) -> str:
        text: str = compiled.render(
            messages=messages, add_generation_prompt=opens_answer, eos_token="<|end_of_text|>", bos_token=""
        )
        return text

    return render


def chat(*texts: str, system: str | None = None) -> list[Message]:
    turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return turns + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def blocks_of(template: str, messages: Sequence[Message]) -> list[str]:
    render = renderer(template)
    return cut_rounds(messages, render(messages, True), render)


@pytest.mark.skipif(not TULU.is_file(), reason="the project's template fixtures are not there")
def test_cut_rounds_cuts_tulu_as_the_engine_does() -> None:
    tulu = TULU.read_text(encoding="utf-8")
    # The same as inContextPrompt() of the engine: src/blocks/in-context.test.ts.
    assert blocks_of(tulu, chat("1+1", "2", "2+2", system="Add.")) == [
        "<|system|>\nAdd.\n",
        "<|user|>\n1+1\n<|assistant|>\n2<|end_of_text|>\n",
        "<|user|>\n2+2\n<|assistant|>\n",
    ]
    messages = chat("a", "b", "c", "d", "e")
    text = renderer(tulu)(messages, True)
    assert blocks_of(tulu, messages) == cut_text(text, CUTS["gsm8k"])
    assert len(blocks_of(tulu, messages)) == 3


def test_cut_rounds_sets_apart_what_only_opens_a_conversation() -> None:
    assert blocks_of(LLAMA, chat("q ", "a", "q2")) == [
        "<|begin_of_text|>",
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ]
    same = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    assert blocks_of(DEFAULT_SYSTEM, chat("q", "a", "q", "a", "q2"))[:3] == [
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        same,
        same,
    ]
    assert blocks_of(DEFAULT_SYSTEM, chat("user", "a", "user", "a", "q"))[1].startswith("<|im_start|>user\nuser<")


def test_cut_rounds_follows_templates_that_print_the_last_answer_otherwise() -> None:
    assert blocks_of(THINKING, chat("q", "a", "q2", "b", "q3")) == [
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n",
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "<|im_start|>user\nq3<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_cut_rounds_takes_templates_that_refuse_a_part() -> None:
    assert blocks_of(REFUSES_SYSTEM_ALONE, chat("q", "a", "q2", system="s")) == [
        "[system]s",
        "[user]q[assistant]a</s>",
        "[user]q2",
    ]


def test_cut_rounds_leaves_a_begun_answer_in_the_final_block() -> None:
    render = renderer(THINKING)
    messages = chat("q", "a", "q2", "It is")
    text = render(messages[:-1], True) + "It is"
    assert cut_rounds(messages, text, render)[-1] == "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\nIt is"


def test_cut_rounds_loses_nothing() -> None:
    draw = random.Random(11)
    for template in (LLAMA, DEFAULT_SYSTEM, THINKING):
        render = renderer(template)
        for _ in range(100):
            texts = ["".join(draw.choices("ab\n 2+", k=draw.randrange(6))) for _ in range(2 * draw.randrange(5) + 1)]
            messages = chat(*texts, system=draw.choice([None, "s"]))
            text = render(messages, True)
            blocks = cut_rounds(messages, text, render)
            assert "".join(blocks) == text
            assert len(blocks) >= len(texts) // 2 + 1


def test_cut_rounds_refuses_what_it_cannot_follow() -> None:
    with pytest.raises(ValueError, match="the chat template prints answer 1"):
        blocks_of(SHOUTS, chat("q", "a", "q2"))
    with pytest.raises(ValueError, match="it has no messages"):
        cut_rounds([], "", renderer(SHOUTS))
