"""Cuts of text: where docs/reference.md says, and nothing lost."""

import copy
import pickle
import random

import pytest
from block_attention_prompts.cuts import CUTS, BlockPrompt, Cut, cut_text, parse_cut
from block_attention_prompts.server_address import server_root


@pytest.mark.parametrize(
    ("name", "text", "blocks"),
    [
        ("gsm8k", "a<|end_of_text|>\nb<|end_of_text|>\nq", ["a<|end_of_text|>\n", "b<|end_of_text|>\n", "q"]),
        ("math", "a<|end_of_text|>\nq", ["a<|end_of_text|>\n", "q"]),
        ("bbh", "intro\n\nQ: a\n\nA: b\n\nQ: c", ["intro", "\n\nQ: a\n\nA: b", "\n\nQ: c"]),
        (
            "drop",
            "intro\n---\n# Example 1\nx\n---\n# Your Task\np\n---\nq",
            ["intro", "\n---\n# Example 1\nx", "\n---\n# Your Task\np\n---\nq"],
        ),
        (
            "drop",
            "intro\n---\na\n\n---\nb\n\n# Your Task\n\n---\nq",
            ["intro", "\n---\na\n", "\n---\nb\n\n", "# Your Task\n\n---\nq"],
        ),
        ("drop", "intro\n---\nq", ["intro", "\n---\nq"]),
    ],
)
def test_cut_text_cuts_the_benchmarks_where_the_paper_does(name: str, text: str, blocks: list[str]) -> None:
    assert cut_text(text, CUTS[name]) == blocks


def test_cut_text_loses_nothing() -> None:
    draw = random.Random(7)
    for _ in range(500):
        parts = draw.choices(["a", "\n---", "\n\nQ: ", "# Your Task", "<|end_of_text|>\n"], k=draw.randrange(20))
        text = "".join(parts) + "?"
        for cut in CUTS.values():
            blocks = cut_text(text, cut)
            assert "".join(blocks) == text
            assert "" not in blocks


def test_cut_text_refuses_what_has_no_query() -> None:
    with pytest.raises(ValueError, match="no query follows"):
        cut_text("a<|end_of_text|>\n", CUTS["gsm8k"])
    with pytest.raises(ValueError, match="the text is empty"):
        cut_text("", CUTS["gsm8k"])
    with pytest.raises(ValueError, match="the text to cut at is empty"):
        cut_text("a", Cut("", "after"))


def test_parse_cut_reads_names_and_texts() -> None:
    assert parse_cut("rounds") is None
    assert parse_cut("bbh") == CUTS["bbh"]
    assert parse_cut("rounds", before="\\n\\nQuestion: ") == Cut("\n\nQuestion: ", "before")
    assert parse_cut("rounds", after="\t") == Cut("\t", "after")
    with pytest.raises(ValueError, match='cut is "gsm", wanted one of rounds, gsm8k'):
        parse_cut("gsm")
    for wrong in [("bbh", "x", None), ("rounds", "x", "y")]:
        with pytest.raises(ValueError, match="more than one"):
            parse_cut(*wrong)
    with pytest.raises(ValueError, match="cut_after is empty"):
        parse_cut("rounds", after="")


def test_block_prompt_keeps_its_blocks_when_it_is_copied() -> None:
    prompt = BlockPrompt(["ab", "c"])
    assert prompt == "abc"
    for other in (copy.copy(prompt), copy.deepcopy(prompt), *(pickle.loads(pickle.dumps(prompt, p)) for p in range(6))):
        assert isinstance(other, BlockPrompt)
        assert other == "abc"
        assert other.blocks == ("ab", "c")


def test_server_root_takes_any_form() -> None:
    for route in ("", "/", "/v1", "/v1/", "/v1/completions", "/v1/chat/completions"):
        assert server_root(f"http://127.0.0.1:8080{route}") == "http://127.0.0.1:8080"
    assert server_root("https://host/under/v1") == "https://host/under"
    for wrong in ("127.0.0.1:8080", "", "ftp://host"):
        with pytest.raises(ValueError, match="Cannot use base_url"):
            server_root(wrong)
