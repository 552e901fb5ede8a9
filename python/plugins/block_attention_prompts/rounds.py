"""A conversation's rounds as blocks, whatever the chat template."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence

Message = Mapping[str, str]

Render = Callable[[Sequence[Message], bool], str]
"""Renders messages by a chat template; the flag asks for the opening of the answer."""

_PLACEHOLDER = "Blk0Qz"


def cut_rounds(messages: Sequence[Message], text: str, render: Render) -> list[str]:
    """The blocks of a conversation: a system message, each round, and last what is to be answered.

    A round is the turns up to and with an assistant's; an assistant's message that ends the conversation is the begun
    answer and belongs to the final block. What the template puts before the first round only is a block of its own, so
    that a round's block is the same at every place. Put together, the blocks are the text.

    Args:
        messages: with roles system, user and assistant.
        text: what `render` makes of them all.
        render: the same template, for shorter conversations: it shows what closes a turn.

    Raises ValueError where the template prints an answer in another way than it stands in the conversation.

    See arXiv:2409.15355v5, in-context learning: k demonstrations are k blocks, the query is the last one.
    """
    if not messages:
        raise ValueError("Cannot cut the conversation: it has no messages")
    places: list[int] = []
    if messages[0]["role"] == "system" and len(messages) > 1:
        end = _end(text, messages[0]["content"], _around(messages[:1], render), 0)
        if end is not None:
            places.append(end)
    opening_end = places[-1] if places else 0
    for i, message in enumerate(messages[:-1]):
        if message["role"] != "assistant":
            continue
        start = places[-1] if places else 0
        end = _end(text, message["content"], _around(messages[: i + 1], render), start)
        if end is None:
            raise ValueError(
                f"Cannot cut the conversation into rounds: the chat template prints answer {i} in a way that cannot be "
                f"followed, wanted {json.dumps(message['content'][:40])} as it stands"
            )
        places.append(end)
    places.append(_opening_end(messages, text, opening_end, places, render))
    borders = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(borders) if a < b]


def _around(messages: Sequence[Message], render: Render) -> tuple[str, str] | None:
    """What the template prints before and after the last message's own text; None where it refuses or hides it."""
    *before, last = messages
    try:
        rendered = render([*before, {**last, "content": _PLACEHOLDER}], False)
    except Exception:  # A template's own error: it takes the whole conversation, and need not take a part of it.
        return None
    opening, found, closing = rendered.rpartition(_PLACEHOLDER)
    return (opening, closing) if found else None


def _end(text: str, content: str, around: tuple[str, str] | None, start: int) -> int | None:
    """Where a turn ends, with the white space after it; None where the text does not hold it, as it is or trimmed."""
    if around is None:
        return None
    opening, closing = around
    for candidate in (content, content.strip()):
        turn = candidate + closing
        # A template may print earlier turns otherwise than the last: then what closes the turn shows its place.
        at = len(opening) if text.startswith(opening + turn) else text.find(turn, start) if closing else -1
        if at < 0:
            continue
        end = at + len(turn)
        while end < len(text) and text[end].isspace():
            end += 1
        return end
    return None


def _opening_end(messages: Sequence[Message], text: str, start: int, places: Sequence[int], render: Render) -> int:
    """How far what only opens the conversation reaches: the first user turn begins as the second one does."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    round_ends = [place for place in places if place > start]
    if len(users) < 2 or not round_ends:
        return start
    first, second = (_around(messages[: user + 1], render) for user in users[:2])
    if first is None or second is None or not text.startswith(first[0]) or not text.startswith(second[0]):
        return start
    opening = first[0][start:]
    prefix = second[0][round_ends[0] :]
    return start + len(opening) - len(prefix) if prefix != "" and opening.endswith(prefix) else start
