"""What a reader would type from a page of docs/, so that a test runs it as it is written."""

import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def script(page: str, heading: str, **values: str) -> str:
    """The first indented block below the heading of docs/`page`, with these values of variables.

    Args:
        values: what stands after `NAME=` at the beginning of a line instead of the page's own.

    Raises:
        AssertionError: no such heading, no block below it, or no such variable in it.
    """
    text = (DOCS / page).read_text("utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no heading {heading!r}"
    block = re.search(r"(?:^    .*\n(?:^\n(?=    ))?)+", found[1], re.MULTILINE)
    assert block, f"{page}: nothing to type below {heading!r}"
    typed = textwrap.dedent(block[0])
    for name, value in values.items():
        typed, count = re.subn(
            rf"^{name}=.*$", lambda _, v=f"{name}='{value}'": v, typed, flags=re.M
        )
        assert count == 1, f"{page}: {name} is set {count} times below {heading!r}"
    return typed


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of that kind in docs/`page`."""
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_script(text: str, cwd: Path, environ: Mapping[str, str]) -> str:
    """What the shell script printed to stdout.

    Raises:
        AssertionError: it failed; with what it said.
    """
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout
