"""A first model whose training really diverges: a result of its seed, and the others go on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from study_runs import of_tickets, quiet

from updater.cli.main import run
from updater.config import override
from updater.study import conduct, first
from updater.study.pool import Task

SETTINGS = """
[training]
epochs = 1
batch_size = 8
gradient_clip = 0
[scratch]
learning_rate = 1e4
epochs = 3
"""
STUDY = """
[study]
name = "s"
seeds = [0, 1]
[stream]
first = ["2026-01"]
then = ["2026-02"]
[validation]
first = ["2026-01"]
then = ["2026-02"]
seeds = [5]
[arms.plain]
regularizer.method = "none"
"""
SWEEPING = """
[arms.swept]
regularizer.method = "l2"
sweep = { "regularizer.strength" = [1.0, 2.0] }
"""


class Here:
    """In the pool's place: the real work, in this process."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Sequence[Task]) -> list[Any]:
        return [task.work(task.job, quiet) for task in tasks]


Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path, tiny_json: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs the study at the command line. Seeds that are `tame` train at a rate that is not too
    high."""
    of_tickets(tmp_path / "w", tiny_json, SETTINGS, ["2026-01", "2026-02"])
    monkeypatch.setattr(conduct, "Pool", Here)
    diverging = first.from_scratch

    def started(text: str, *, tame: tuple[int, ...] = ()) -> int:
        def calm(settings: Any, *args: Any, **more: Any) -> Any:
            if settings.training.seed in tame:
                settings = override(settings, {"scratch": {"learning_rate": 1e-3}}, "test")
            return diverging(settings, *args, **more)

        monkeypatch.setattr(first, "from_scratch", calm)
        (tmp_path / "s.toml").write_text(text, "utf-8")
        command = ["--json", "--quiet", "study", str(tmp_path / "s.toml")]
        return run([*command, "--workspace", str(tmp_path / "w")])

    return started


STOPPED = "training stopped at step "


def test_a_study_without_any_first_model_is_an_error(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(STUDY) == 1
    said = capsys.readouterr().err
    assert (
        f"none of the study's first models can be trained; first model, seed 0: {STOPPED}" in said
    )
    assert "scratch.learning_rate" in said
    assert "again" not in said


def test_a_seed_whose_first_model_diverges_is_a_result(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like an arm that diverges: the other seed goes on, and nothing is to be run again."""
    assert start(STUDY, tame=(1,)) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["failed"] == []
    plain = answer["arms"]["plain"]
    assert [n is None for n in plain["steps"]] == [True, False]
    why = f"its first model, which [settings] train, diverged: {STOPPED}"
    assert plain["failures"]["0"].startswith(why)
    assert f"updater: plain, seed 0, stopped: {why}" in said.err
    assert "again" not in said.err


def test_a_sweep_whose_first_model_diverges_chooses_nothing_for_good(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(STUDY + SWEEPING, tame=(0, 1)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"] == []
    assert "failures" not in answer["arms"]["plain"]
    assert set(answer["arms"]["swept"]["failures"].values()) == {
        "a first model of the validation stream diverged, so that its sweep chooses nothing"
    }


def test_where_only_sweeps_have_a_first_model_the_study_is_an_error(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    only = STUDY.replace('[arms.plain]\nregularizer.method = "none"\n', SWEEPING)
    assert start(only, tame=(5,)) == 1
    assert "none of the study's first models can be trained" in capsys.readouterr().err
