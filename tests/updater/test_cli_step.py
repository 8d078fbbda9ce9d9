"""`updater step`: a step that doesn't exist is answered with those that do."""

import pytest

from updater.cli import run
from updater.pipeline import STEPS


@pytest.mark.parametrize("more", [(), ("--update", "x"), ("--period", "p")], ids=" ".join)
@pytest.mark.parametrize(("name", "cure"), [("foo", "name one"), ("trian", "did you mean train")])
def test_a_step_that_does_not_exist_is_answered_with_those_that_do(
    name: str, cure: str, more: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["step", name, *more]) == 2
    said = capfd.readouterr().err
    assert f"there is no step {name!r}" in said
    assert ", ".join(("ingest", *STEPS)) in said
    assert cure in said
    assert f"updater step {name}" not in said
