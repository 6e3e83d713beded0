"""What the pages tell people to type, set and watch is there: commands, options, settings, metrics."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from headrace.cli import app
from pipelines.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*.md"),
        *ROOT.glob("models/*/README.md"),
        *ROOT.glob("*/README.md"),
    ]
)
# Read by the tests, the Makefile or the process tree, and no settings of the program.
OTHER_NAMES = re.compile(r"HEADRACE_(TEST_[A-Z_]+|TREE|NAME|)$")
COMMAND = re.compile(r"^(?:\S+=\S+ )*(?:\.venv/bin/|\$ )?headrace (?P<rest>.*)$")


def commands():
    """Every `headrace …` line of a shell block, and every one in a code span of a table."""
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"^( *)```sh\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
        whole = [line.strip() for _, block in blocks for line in block.replace("\\\n", " ").split("\n")]
        named = re.findall(r"(?<!`)`((?:\.venv/bin/)?headrace [^`…]+)`(?!`)", text)
        for line, is_whole in [*((line, True) for line in whole), *((line, False) for line in named)]:
            if found := COMMAND.match(re.sub(r"\s+", " ", line)):
                yield pytest.param(found["rest"], is_whole, id=f"{page.relative_to(ROOT)}: {line[:60]}")


ROOT_COMMAND = typer.main.get_command(app)


@pytest.mark.parametrize(("line", "whole"), commands())
def test_commands_of_the_pages_are_taken(line, whole):
    words = shlex.split(line, comments=True)
    if any(word in {"|", ">", "&&", ";"} for word in words):
        words = words[: min(place for place, word in enumerate(words) if word in {"|", ">", "&&", ";"})]
    if not words or words[0].startswith("-") or words[0] in {"COMMAND", "…"} or "--help" in words:
        return
    command, context = ROOT_COMMAND, None
    while words and hasattr(command, "get_command"):
        context = command.make_context("headrace", [*words], parent=context)
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
    try:
        command.make_context(command.name, words, parent=context)
    except Exception as error:
        # What is named in passing need not be complete: `headrace history`, `headrace reproduce --rebuild`.
        if whole or type(error).__name__ not in {"MissingParameter", "NoArgsIsHelpError"}:
            raise


def test_settings_of_the_pages_are_settings():
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    told = {
        (name, str(page.relative_to(ROOT)))
        for page in PAGES
        for name in re.findall(r"HEADRACE_[A-Z0-9_]+\b(?!…)", page.read_text("utf-8"))
    }
    unknown = sorted((name, page) for name, page in told if name not in known and not OTHER_NAMES.match(name))
    assert not unknown
