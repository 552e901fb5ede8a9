"""What Jinja2 prints for the templates of tests/fixtures/chat-templates.json, in the sandbox that Transformers renders in.

    python python/oracles/chat_templates.py            # writes what each case prints, or how it fails, into the file
    python python/oracles/chat_templates.py --check    # says which cases print something else than the file says
    python python/oracles/chat_templates.py --render   # prints the results of [{"source", "messages", "variables"}, …] on standard input

A case has its template as "source", or names a "file" in tests/fixtures/templates, and may have "variables" of its own.
It needs the packages of the trainer (python/requirements.txt); its tests do the check. A case that Jinja2 renders and the engine refuses has a "refused"
beside, a part of the engine's words; the rest of a case is made here.
"""

import json
import re
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "chat-templates.json"
TEMPLATES = FIXTURE.with_name("templates")


def rendered(source, messages, variables):
    """{"prints": text}, or {"fails": the error's class}."""
    try:
        prints, _ = render_jinja_template(
            conversations=[messages], chat_template=source, add_generation_prompt=True, **variables
        )
        # A bound method prints where it stands in memory.
        return {"prints": re.sub(r"0x[0-9a-f]{6,}", "0x", prints[0])}
    except Exception as error:  # noqa: BLE001: whatever a template brings about is its result
        return {"fails": type(error).__name__}


def results(fixture):
    """The cases as Jinja2 has them."""
    for case in fixture["cases"]:
        asked = {key: case[key] for key in ["source", "file", "variables"] if key in case}
        refused = {key: case[key] for key in ["refused"] if key in case}
        source = case["source"] if "source" in case else (TEMPLATES / case["file"]).read_text(encoding="utf-8")
        variables = {**fixture["variables"], **case.get("variables", {})}
        yield {**asked, **rendered(source, fixture["messages"], variables), **refused}


def written(fixture, cases):
    """The file: one case a line."""
    head = [f'"{key}": {json.dumps(fixture[key], ensure_ascii=False)},' for key in ["messages", "variables"]]
    lines = [json.dumps(case, ensure_ascii=False) for case in cases]
    return "\n".join(["{", *head, '"cases": [', ",\n".join(lines), "]", "}", ""])


def main():
    if "--render" in sys.argv[1:]:
        json.dump([rendered(case["source"], case["messages"], case["variables"]) for case in json.load(sys.stdin)], sys.stdout)
        return 0
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    cases = list(results(fixture))
    if "--check" not in sys.argv[1:]:
        FIXTURE.write_text(written(fixture, cases), encoding="utf-8")
        return 0
    wrong = [case for case, known in zip(cases, fixture["cases"], strict=True) if case != known]
    for case in wrong:
        print(f"Jinja2 has another result: {json.dumps(case, ensure_ascii=False)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
