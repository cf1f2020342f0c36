"""Commands in the README and the docs: every command and option that they show exists, and their YAML is a study's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.core
import typer.main
import yaml

from relscope.cli.commands import app
from relscope.study import StudyConfig

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "benchmarks" / "RESULTS.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def shown_commands() -> list[tuple[str, list[str]]]:
    """Every line that begins with `relscope`, or `$ relscope`, its continuations joined: page and words."""
    found = []
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("", "sh", "bash", "console"):
                lines = text.replace("\\\n", " ").splitlines()
                shown = [line.removeprefix("$ ").partition("  #")[0] for line in lines]
                found += [(page.name, shlex.split(line)[1:]) for line in shown if line.startswith("relscope ")]
    return found


def test_commands_are_found_at_all() -> None:
    assert len(shown_commands()) > 40


@pytest.mark.parametrize(("page", "words"), shown_commands(), ids=str)
def test_every_command_and_option_that_is_shown_exists(page: str, words: list[str]) -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    assert words[0] in commands.commands, f"{page}: relscope {words[0]}"
    options = {name for param in commands.commands[words[0]].params for name in (*param.opts, *param.secondary_opts)}
    used = {word.partition("=")[0] for word in words[1:] if re.match(r"-{1,2}[a-z]", word)}
    assert used <= options, f"{page}: relscope {words[0]} has no {', '.join(sorted(used - options))}"


def test_every_study_that_is_shown_can_be_read() -> None:
    studies = [
        yaml.safe_load(text)
        for page in PAGES
        for language, text in blocks(page)
        if language == "yaml" and re.search(r"^experiments:", text, re.MULTILINE)
    ]
    assert len(studies) >= 2
    for study in studies:
        StudyConfig.from_mapping(study, "shown")
