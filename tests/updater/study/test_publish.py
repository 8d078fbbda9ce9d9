"""A study in a real MLflow (SQLite): parent and children, failures, and publishing again."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from store.errors import ConflictError
from store.registry import Registry
from updater.study.report.publish import PARENT, publish
from updater.study.results import Run
from updater.study.tabulated import tabulate

Make = Callable[..., list[Run]]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), "tickets")
    made.create()
    return made


@pytest.fixture
def client(registry: Registry) -> MlflowClient:
    return registry._mlflow._client


def children(client: MlflowClient, parent: str) -> dict[tuple[str, str], MlflowRun]:
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'")
    return {(r.data.params["arm"], r.data.params["seed"]): r for r in found}


def published(registry: Registry, runs: Sequence[Run], page: Path, **more: Any) -> str:
    return publish(registry, tabulate(runs), page, num_periods=6, **more)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "study.html").write_text("<html></html>")
    return tmp_path


def test_the_parent_has_the_page_and_a_child_for_each_arm_and_seed(
    registry: Registry, client: MlflowClient, make_study: Make, page: Path
) -> None:
    runs = make_study(2)
    settings = {"ewc": {"regularizer.strength": 100.0}, "finetune": {"regularizer.strength": 0.0}}
    parent = published(registry, runs, page, study="whole", settings=settings)
    found = children(client, parent)
    assert found.keys() == {(run.arm, str(run.seed)) for run in runs}
    assert [one.path for one in client.list_artifacts(parent)] == ["study.html"]
    child = found["ewc", "1"]
    assert child.data.params["regularizer.strength"] == "100.0"
    assert child.info.status == "FINISHED"
    last = runs[3].stages[-1]
    assert child.data.metrics["accuracy/work"] == pytest.approx(last.accuracy("work"))
    history = client.get_metric_history(child.info.run_id, "average_accuracy")
    assert [point.step for point in history] == [0, 1, 2, 3, 4]
    assert child.data.metrics["final_average_accuracy"] == pytest.approx(history[-1].value)
    assert client.get_run(parent).data.metrics["final_average_accuracy/ewc"] > 0


def test_a_failed_run_is_failed_there_with_its_reason_and_without_measures(
    registry: Registry, client: MlflowClient, make_study: Make, page: Path
) -> None:
    found = children(client, published(registry, make_study(2), page, study="broken"))
    failed = found["si", "1"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["failure"] == "diverged: the loss is not finite"
    assert "final_average_accuracy" not in failed.data.metrics
    assert "accuracy/banking" in failed.data.metrics
    assert all(math.isfinite(v) for r in found.values() for v in r.data.metrics.values())


def test_an_arm_that_never_began_is_failed_there(
    registry: Registry, client: MlflowClient, page: Path
) -> None:
    never = Run("ewc", 0, ("a",), (), failure="every value of its sweep diverged")
    found = children(client, published(registry, [never], page, study="never"))
    assert found["ewc", "0"].info.status == "FAILED"


def test_published_again_it_finds_its_runs_and_draws_nothing_twice(
    registry: Registry, client: MlflowClient, make_arm: Make, page: Path
) -> None:
    runs = make_arm("rehearsal", 0.9, seeds=2)
    first = published(registry, runs[:1], page, study="again")
    again = published(registry, runs, page, study="again")
    assert again == first
    found = children(client, again)
    assert len(found) == 2
    for name in ("accuracy/work", "final_average_accuracy"):
        history = client.get_metric_history(found["rehearsal", "0"].info.run_id, name)
        assert len({(p.step, p.timestamp, p.value) for p in history}) == len(history)
        assert len(history) == (5 if "/" in name else 1)


def test_other_settings_under_the_same_name_are_refused(
    registry: Registry, make_arm: Make, page: Path
) -> None:
    runs = make_arm("rehearsal", 0.9, seeds=1)
    published(registry, runs, page, study="same", settings={"rehearsal": {"a.b": 1}})
    with pytest.raises(ConflictError):
        published(registry, runs, page, study="same", settings={"rehearsal": {"a.b": 2}})


def test_an_arm_named_with_a_plus_is_published(
    registry: Registry, client: MlflowClient, make_arm: Make, page: Path
) -> None:
    parent = published(registry, make_arm("rehearsal+ewc", 0.9, seeds=1), page, study="plus")
    assert "final_average_accuracy/rehearsal-ewc" in client.get_run(parent).data.metrics


def test_the_scores_of_a_replay_are_those_that_users_had(
    registry: Registry, client: MlflowClient, make_replay: Make, page: Path
) -> None:
    """Its second and fourth update are rejected."""
    child = children(client, published(registry, make_replay(), page, study="replay"))["ewc", "0"]
    history = client.get_metric_history(child.info.run_id, "accuracy/banking")
    first, second, third, fourth, fifth = (point.value for point in history)
    assert (third, fifth) == (second, fourth)
    assert first != second != fourth


def test_what_was_published_half_is_published_whole_under_the_same_run(
    registry: Registry, client: MlflowClient, make_arm: Make, page: Path
) -> None:
    """The first time no run came to the end of the stream, and the reference had none at all."""
    runs = [*make_arm("ewc", 0.8, seeds=1), *make_arm("rehearsal", 0.9, seeds=1)]
    begun = dataclasses.replace(runs[0], stages=runs[0].stages[:2], failure="SIGKILL")
    never = dataclasses.replace(runs[1], stages=(), failure="its first model could not be made")
    half = published(registry, [begun, never], page, study="half")
    assert {r.info.status for r in children(client, half).values()} == {"FAILED"}
    whole = published(registry, runs, page, study="half")
    assert whole == half
    parameters = client.get_run(whole).data.params
    assert parameters == {"reference": "rehearsal", "num_periods": "6"}
    for child in children(client, whole).values():
        assert (child.info.status, child.data.tags["failure"]) == ("FINISHED", "")
        history = client.get_metric_history(child.info.run_id, "average_accuracy")
        assert [point.step for point in history] == [0, 1, 2, 3, 4]
