"""Making a workspace: what is refused is refused before anything is made, by the file's own name.

That a whole one can be worked in is the story's business (tests/story).
"""

from pathlib import Path

import pytest

from updater.cli import run

GOOD = """
[workspace]
name = "clinc"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = " {intent}"
period = "{domain}"
[periods]
order = ["banking", "home"]
"""


def said(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert run(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "text", [GOOD + "[training]\nepochs = 0\n", GOOD + "[traning]\n", "name = clinc", GOOD[:20]]
)
def test_a_bad_configuration_is_named_as_the_user_named_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    given = tmp_path / "bad.toml"
    given.write_text(text)
    line = said(capfd, "init", str(tmp_path / "ws"), "--config", str(given))
    assert line.startswith(f"updater: {given}")
    assert not (tmp_path / "ws").exists()


def test_a_malformed_address_is_refused_before_anything_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPDATER_STORE_URL", "postgresql+psycopg:/x")
    given = tmp_path / "good.toml"
    given.write_text(GOOD)
    line = said(capfd, "init", str(tmp_path / "ws"), "--config", str(given))
    assert line.startswith("updater: UPDATER_STORE_URL=postgresql+psycopg:/x in the environment.")
    assert line.endswith("change UPDATER_STORE_URL.")
    assert not (tmp_path / "ws").exists()
