"""The training curve in a real MLflow: whole and once, whatever was killed or out of reach."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.errors import DeniedError, UnreachableError
from store.registry import Registry
from updater.steps import curve
from updater.steps.curve import Curve

EVERY = 20  # steps between two saved states of the training


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), "curves")
    made.create()
    return made


@pytest.fixture
def run_id(registry: Registry, tmp_path: Path) -> str:
    return registry.open_run(tmp_path.name, run_name="update", parameters={})


@pytest.fixture
def opened(registry: Registry, run_id: str, tmp_path: Path) -> Callable[[], Curve]:
    return lambda: Curve(registry, run_id, tmp_path, checkpoint_every_steps=EVERY)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are sent as soon as they may be."""
    monkeypatch.setattr(curve, "FLUSH_SECONDS", -1.0)


def points(registry: Registry, run_id: str) -> list[tuple[int, float]]:
    """(step, loss) of every point that MLflow has, by step."""
    history = registry._mlflow.ask(lambda client: client.get_metric_history(run_id, "loss"))
    return sorted((point.step, point.value) for point in history)


def kept(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every line of the file."""
    lines = (folder / "train_metrics.jsonl").read_text("utf-8").splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectionError("refused")


def train(made: Curve, steps: range, slope: float) -> None:
    """A training that hands out a metric each ten steps. After it the curve isn't left: a kill."""
    made.__enter__()
    for step in steps:
        made.add(step, {"loss": slope / step, "rate": 0.1})
    made._file.close()  # as the system does for a process that is gone


def test_points_that_a_kill_left_unsent_are_sent_and_the_newest_of_a_step_counts(
    registry: Registry,
    run_id: str,
    opened: Callable[[], Curve],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(curve, "FLUSH_SECONDS", -1.0)
        train(opened(), range(10, 51, 10), slope=1.0)
    assert points(registry, run_id) == [(10, 1 / 10), (20, 1 / 20), (30, 1 / 30), (40, 1 / 40)]
    train(opened(), range(50, 71, 10), slope=2.0)  # from the state of step 40; nothing is sent
    with (tmp_path / "train_metrics.jsonl").open("a") as file:
        file.write('{"step": 80, "at')
    with opened() as last:
        for step in range(70, 91, 10):  # from the state of step 60
            last.add(step, {"loss": 3.0 / step, "rate": 0.1})
    slopes = {10: 1, 20: 1, 30: 1, 40: 1, 50: 2, 60: 2, 70: 3, 80: 3, 90: 3}
    assert points(registry, run_id) == [(step, slope / step) for step, slope in slopes.items()]
    assert kept(tmp_path) == points(registry, run_id)


@pytest.mark.usefixtures("at_once")
def test_what_may_come_again_after_a_kill_is_not_sent(
    registry: Registry, run_id: str, opened: Callable[[], Curve]
) -> None:
    train(opened(), range(10, 61, 10), slope=1.0)
    assert [step for step, _ in points(registry, run_id)] == [10, 20, 30, 40]


@pytest.mark.usefixtures("at_once")
def test_out_of_reach_it_trains_on_and_sends_the_rest_at_the_end(
    registry: Registry,
    run_id: str,
    opened: Callable[[], Curve],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    with opened() as made:
        with monkeypatch.context() as patch:
            patch.setattr(registry._mlflow._client, "log_batch", unreachable)
            for step in range(10, 51, 10):
                made.add(step, {"loss": 1 / step})
        assert points(registry, run_id) == []
    assert points(registry, run_id) == kept(tmp_path) == [(s, 1 / s) for s in range(10, 51, 10)]


@pytest.mark.usefixtures("at_once")
def test_a_token_that_expires_meanwhile_stops_no_training(
    registry: Registry,
    run_id: str,
    opened: Callable[[], Curve],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry._mlflow._client, "log_batch", denied)
        made = opened()
        made.__enter__()
        for step in range(10, 51, 10):
            made.add(step, {"loss": 1 / step})
        with pytest.raises(DeniedError, match="Set MLFLOW_TRACKING_USERNAME"):
            made.__exit__(None, None, None)
    with opened():
        pass
    assert points(registry, run_id) == kept(tmp_path) == [(s, 1 / s) for s in range(10, 51, 10)]


def denied(*_: object, **__: object) -> None:
    """As MLflow's client says it of a 401."""
    from mlflow.exceptions import RestException

    raise RestException({"error_code": "UNAUTHENTICATED", "message": "not authenticated"})


def test_a_finished_training_whose_last_send_failed_sends_when_it_is_run_again(
    registry: Registry,
    run_id: str,
    opened: Callable[[], Curve],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(registry._mlflow._client, "log_batch", unreachable)
        made = opened()
        made.__enter__()
        made.add(10, {"loss": 0.5})
        made.add(14, {"loss": 0.25})
        with pytest.raises(UnreachableError):
            made.__exit__(None, None, None)
    for _ in range(2):  # a kill right after the send makes it a second time
        with opened():
            pass
        assert points(registry, run_id) == kept(tmp_path) == [(10, 0.5), (14, 0.25)]


def test_a_line_of_an_older_release_has_no_time_and_is_sent(
    registry: Registry, run_id: str, opened: Callable[[], Curve], tmp_path: Path
) -> None:
    (tmp_path / "train_metrics.jsonl").write_text('{"step": 10, "loss": 0.5}\n')
    for _ in range(2):
        with opened():
            pass
    assert points(registry, run_id) == kept(tmp_path) == [(10, 0.5)]
