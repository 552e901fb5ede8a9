"""What the engine's tests expect of chat templates is what Jinja2 prints in the sandbox of Transformers."""

import json
import runpy
from pathlib import Path

ORACLE = Path(__file__).parents[1] / "oracles" / "chat_templates.py"


def test_jinja2_prints_what_the_fixture_says() -> None:
    oracle = runpy.run_path(str(ORACLE))
    fixture = json.loads(oracle["FIXTURE"].read_text(encoding="utf-8"))
    assert list(oracle["results"](fixture)) == fixture["cases"]
