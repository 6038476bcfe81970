"""What the pages say exists: every command and option in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from snakemake.cli import get_argument_parser

from pipen_executors.cli import app
from pipen_executors.exceptions import UserError
from pipen_executors.standalone import BACKENDS, plugin_of

HERE = Path(__file__).parents[1]
PAGES = [*sorted((HERE / "docs").glob("*.md")), HERE / "README.md"]
CATALOG = [HERE / "docs" / "intro.md", HERE / "docs" / "further.md"]
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


def command_lines(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the command lines of a program on a page, as words."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
    for line in [*lines, *_INLINE.findall(_BLOCK.sub("", text))]:
        if line.split()[:1] == [program] and "…" not in line:
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_ours(page: Path) -> None:
    commands = typer.main.get_group(app)
    for _, *words in command_lines(page, "pipen-executors"):
        if not words:
            continue
        assert words[0] in commands.commands, words
        # Read as it would be, without being run; a DIR or FILE need not be there.
        command = commands.commands[words[0]]
        if words[1:] or not any(parameter.required for parameter in command.params):
            command.make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_the_executors(page: Path) -> None:
    for option in set(re.findall(r"--pipen-[a-z-]*[a-z]", page.read_text())):
        backend, _, name = option.removeprefix("--pipen-").partition("-")
        if backend in BACKENDS:
            if not name:
                continue  # --pipen-local-… stands for all of them
            try:
                settings = plugin_of(backend).ExecutorSettings
            except UserError:
                continue  # an executor that is not installed here
        else:
            try:
                from snakemake_executor_plugin_pipen import ExecutorSettings as settings
            except ImportError:
                continue
            name = option.removeprefix("--pipen-")
        known = {f.name.replace("_", "-") for f in fields(settings)}
        assert name in known, option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_snakemake(page: Path) -> None:
    others = ("--pipen-", "--storage-")  # of plugins, which have their own
    parser = get_argument_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    for words in command_lines(page, "snakemake"):
        for word in words:
            if word.startswith("--") and not word.startswith(others):
                assert word.partition("=")[0] in known, (page.name, words)


@pytest.mark.parametrize("page", CATALOG, ids=lambda page: page.name)
def test_pages_of_the_catalog(page: Path) -> None:
    """The catalog puts them into a page of its own: below its headings, away from our files."""
    text = page.read_text()
    assert not re.search(r"^# ", text, re.MULTILINE)
    assert not re.search(r"\]\((?!https?:)", text), "a link that leads nowhere from the catalog"


def test_every_command_has_its_part() -> None:
    """The page of the commands names each with all its options."""
    text = (HERE / "docs" / "commands.md").read_text()
    for name, command in typer.main.get_group(app).commands.items():
        assert f"## {name}\n" in text
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts]:
                if option.startswith("--") and option not in ("--help", "--probe"):
                    assert option in text, (name, option)


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_promises_have_tests() -> None:
    text = (HERE / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert named
    for file, test in named:
        source = (HERE / "tests" / file).read_text()
        assert re.search(rf"^ *def {test}\(", source, re.MULTILINE), f"{file}::{test}"
