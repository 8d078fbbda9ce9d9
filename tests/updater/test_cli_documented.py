"""Every command has help with an example, and stands in docs/commands.md with its options."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from updater.cli import app as frame
from updater.cli import main  # noqa: F401, loads the commands

DOCS = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
GLOBAL = {"--workspace", "--set", "--json", "--quiet", "--traceback", "--help", "-h"}

COMMANDS = frame.app.commands


def test_every_command_stands_in_one_section_of_the_help() -> None:
    listed = [name for names in frame.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_fits_says_what_it_does_and_gives_an_example(name: str) -> None:
    done = CliRunner().invoke(frame.app, [name, "--help"])
    assert done.exit_code == 0
    assert f"updater {name}" in done.output.split("Example", 1)[1]
    assert not COMMANDS[name].get_short_help_str(58).endswith("...")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_docs_name_the_command_and_its_options(name: str) -> None:
    assert f"`updater {name}" in DOCS
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            names = set(parameter.opts) - GLOBAL
            assert not names or any(option in DOCS for option in names), names


def test_the_docs_name_no_command_that_does_not_exist() -> None:
    words = {part.split("`")[0].split()[0] for part in DOCS.split("`updater ")[1:]}
    assert words - {"COMMAND"} <= set(COMMANDS)
