"""Where the text of demonstrations is cut into blocks."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True)
class Cut:
    """A text is cut before or after each place that reads `mark`.

    From the last `closing` on, all is the final block; what stands before it belongs to the last demonstration.
    """

    mark: str
    side: Literal["before", "after"]
    closing: str | None = None


ROUNDS = "rounds"
"""The name of the cut that a conversation has of its own: a round is a block."""

CUTS = {
    "gsm8k": Cut("<|end_of_text|>\n", "after"),
    "math": Cut("<|end_of_text|>\n", "after"),
    "bbh": Cut("\n\nQ: ", "before"),
    "drop": Cut("\n---", "before", closing="# Your Task"),
}
"""How the prompts of known benchmarks are cut, as the paper's authors evaluate them."""


class BlockPrompt(str):
    """A prompt that knows its blocks: put together, they are its text.

    >>> prompt = BlockPrompt(["1+1=2 ", "2+2="])
    >>> prompt == "1+1=2 2+2=", prompt.blocks
    (True, ('1+1=2 ', '2+2='))
    """

    blocks: tuple[str, ...]

    def __new__(cls, blocks: Iterable[str]) -> Self:
        """Of blocks in order, the last one the final block."""
        kept = tuple(blocks)
        prompt = super().__new__(cls, "".join(kept))
        prompt.blocks = kept
        return prompt

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...]]]:
        """What a copy is made of: without it, copies would be cut into letters."""
        return (type(self), (self.blocks,))


def cut_text(text: str, cut: Cut) -> list[str]:
    """The blocks of a text: each demonstration, and last the query. Put together, they are the text.

    Raises ValueError if the text is empty or ends with a demonstration, so that no query is left.

    >>> cut_text("1+1=2;2+2=", Cut(";", "after"))
    ['1+1=2;', '2+2=']
    """
    if text == "":
        raise ValueError("Cannot cut demonstrations: the text is empty")
    if cut.mark == "":
        raise ValueError("Cannot cut demonstrations: the text to cut at is empty")
    parts = text.split(cut.mark)
    if cut.side == "after":
        pieces = [*(part + cut.mark for part in parts[:-1]), parts[-1]]
    else:
        pieces = [parts[0], *(cut.mark + part for part in parts[1:])]
    if cut.closing is not None and cut.closing in text:
        pieces = _close(pieces, cut, text.rindex(cut.closing))
    if pieces[-1] == "":
        raise ValueError("Cannot cut demonstrations: no query follows the last of them")
    return [piece for piece in pieces if piece != ""]


def _close(pieces: list[str], cut: Cut, start: int) -> list[str]:
    """All from the closing on, which stands at `start`, is the final block; with the mark, where nothing is between."""
    begin = 0
    for i, piece in enumerate(pieces):
        end = begin + len(piece)
        if end <= start:
            begin = end
            continue
        head = piece[: start - begin]
        is_only_mark = head.removeprefix(cut.mark).strip() == ""
        local, cut_at = ([], 0) if is_only_mark else ([head], len(head))
        return [*pieces[:i], *local, "".join(pieces[i:])[cut_at:]]
    return pieces


def parse_cut(name: str, before: str | None = None, after: str | None = None) -> Cut | None:
    """The cut that settings name; None for a round of the conversation a block.

    Args:
        name: "rounds" or a benchmark's of CUTS.
        before: a text to cut before, in place of a name; a backslash with n or t in it is a newline or a tab.
        after: the same to cut after.

    Raises ValueError for a name that is none, and for more than one of the three.
    """
    given = [text for text in (before, after) if text is not None]
    if len(given) > 1 or (given and name != ROUNDS):
        raise ValueError("Cannot cut prompts: more than one of cut, cut_before and cut_after is given, wanted one")
    if before is not None:
        return Cut(_unescape("cut_before", before), "before")
    if after is not None:
        return Cut(_unescape("cut_after", after), "after")
    if name == ROUNDS:
        return None
    if name not in CUTS:
        names = ", ".join([ROUNDS, *CUTS])
        raise ValueError(f"Cannot cut prompts: cut is {json.dumps(name)}, wanted one of {names}")
    return CUTS[name]


def _unescape(name: str, text: str) -> str:
    """Command lines hold no newline well."""
    if text == "":
        raise ValueError(f"Cannot cut prompts: {name} is empty")
    return text.replace("\\n", "\n").replace("\\t", "\t")
