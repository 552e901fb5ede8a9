"""What a run tells: lines for people, or JSON lines for a program that started it."""

import json
import sys
from typing import Any, TextIO


class Progress:
    """Writes events; each JSON line is an object with `event`.

    Events: `stage` (stage: what goes on from now on), `start` (steps, tokenizer and model facts), `step` (step, steps,
    loss, tokensPerSecond, secondsLeft), `evaluation` (step, metrics), `answer`, `checkpoint` (step, path), `export`
    (path), `end` (why).
    """

    def __init__(self, stream: TextIO | None, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json

    def tell(self, event: str, **fields: Any) -> None:
        if self._stream is None:
            return
        fields = {key: value for key, value in fields.items() if value is not None}
        line = json.dumps({"event": event, **fields}) if self._as_json else _readable(event, fields)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            # Who listened has gone; the run goes on.
            self._stream = None


def open_progress(target: str | None, *, is_main: bool) -> Progress:
    """`target` is None for readable lines, "-" for JSON on standard output, or the number of an open descriptor.

    Raises ValueError for anything else.
    """
    if not is_main:
        return Progress(None, as_json=False)
    if target is None or target == "-":
        return Progress(sys.stdout, as_json=target == "-")
    try:
        return Progress(open(int(target), "w", encoding="utf-8"), as_json=True)  # noqa: PTH123
    except (ValueError, OSError) as error:
        raise ValueError(f'Cannot use "--progress-json {target}": wanted "-" or an open file descriptor') from error


def _readable(event: str, fields: dict[str, Any]) -> str:
    if event == "stage":
        return str(fields["stage"])
    if event == "step":
        line = f"step {fields['step']}/{fields['steps']}  loss {fields['loss']:.4f} a token"
        if "secondsLeft" not in fields:
            return line
        left = int(fields["secondsLeft"])
        time_left = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return f"{line}  {fields['tokensPerSecond']:.0f} tokens/s  {time_left}"
    parts = [f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in _flat(fields)]
    return f"{event}: " + "  ".join(parts)


def _flat(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in fields.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
