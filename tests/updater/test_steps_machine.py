"""System metrics of a training, by MLflow's own monitors in a real MLflow, and the energy drawn."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from store.registry import Registry
from updater import energy
from updater.settings import TrainingSettings
from updater.steps.machine import ENERGY_FILE, Machine

HAS_GPU = "UPDATER_TEST_GPU" in os.environ


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("mlflow")
    made = Registry(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), "machines")
    made.create()
    return made


@pytest.fixture
def run_id(registry: Registry, tmp_path: Path) -> str:
    return registry.open_run(tmp_path.name, run_name="update", parameters={})


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as often as MLflow's own setting says."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")


def watched(registry: Registry, run_id: str, folder: Path) -> Machine:
    return Machine(registry, run_id, folder, TrainingSettings())


def points(registry: Registry, run_id: str, name: str) -> list[Any]:
    return registry._mlflow.ask(lambda client: client.get_metric_history(run_id, name))


def unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("nobody there")


def test_a_training_that_is_over_at_once_has_two_points(
    registry: Registry, run_id: str, tmp_path: Path
) -> None:
    with watched(registry, run_id, tmp_path):
        pass
    found = points(registry, run_id, "system/system_memory_usage_megabytes")
    assert len(found) == 2
    assert all(point.value > 0 for point in found)
    names = set(registry._mlflow._client.get_run(run_id).data.metrics)
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= names


@pytest.mark.usefixtures("_often")
def test_it_is_read_all_the_time_and_a_resumed_training_goes_on(
    registry: Registry, run_id: str, tmp_path: Path
) -> None:
    name, counts = "system/cpu_utilization_percentage", []
    for _ in range(2):
        with watched(registry, run_id, tmp_path):
            time.sleep(1.1)
        counts.append(len(points(registry, run_id, name)))
    assert counts[0] >= 3
    assert counts[1] >= counts[0] + 3
    steps = [point.step for point in points(registry, run_id, name)]
    assert steps == sorted(steps), "seconds since the run began, whoever reads"


@pytest.mark.usefixtures("_often")
def test_what_a_lost_mlflow_missed_is_told_when_it_is_back(
    registry: Registry, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.retry.FIRST_PAUSE_SECONDS", 0.01)
    made = watched(registry, run_id, tmp_path)
    with monkeypatch.context() as gone:
        gone.setattr(registry._mlflow._client, "log_batch", unreachable)
        with made:
            time.sleep(1.0)
            assert points(registry, run_id, "system/disk_usage_percentage") == []
            gone.undo()
    assert len(points(registry, run_id, "system/disk_usage_percentage")) >= 3


def test_an_mlflow_that_stays_lost_is_said_and_stops_nothing(
    registry: Registry,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("store.retry.FIRST_PAUSE_SECONDS", 0.01)
    made = watched(registry, run_id, tmp_path)
    monkeypatch.setattr(registry._mlflow._client, "log_batch", unreachable)
    with caplog.at_level(logging.WARNING, "updater"), made:
        pass
    assert "2 system metrics are lost" in caplog.text


def test_what_mlflow_refuses_ends_the_telling_and_not_the_training(
    registry: Registry, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = watched(registry, run_id, tmp_path)
    registry._mlflow._client.delete_run(run_id)
    with caplog.at_level(logging.WARNING, "updater"), made:
        pass
    assert "training goes on; what the machine does is told no longer" in caplog.text


def test_mlflows_own_switch_says_no(
    registry: Registry, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with watched(registry, run_id, tmp_path):
        pass
    assert points(registry, run_id, "system/disk_usage_percentage") == []


def test_the_energy_of_all_attempts_counts(
    registry: Registry, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that rises by 10 J at each reading: twice three readings, twice two differences."""
    counter = iter(range(1000, 9000, 10))
    monkeypatch.setattr(energy, "meter", lambda _: lambda: float(next(counter)))
    for attempt in (1, 2):
        with watched(registry, run_id, tmp_path) as made:
            pass
        assert made.result() == {"energy_joules": 20.0 * attempt}
    assert (tmp_path / ENERGY_FILE).exists()


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_no_energy_is_told(registry: Registry, run_id: str, tmp_path: Path) -> None:
    with watched(registry, run_id, tmp_path) as made:
        pass
    assert made.result() == {}
    assert not (tmp_path / ENERGY_FILE).exists()


def test_of_several_machines_only_one_could_be_seen_so_no_energy_is_told(
    registry: Registry, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "meter", lambda _: lambda: 1.0)
    training = TrainingSettings(nodes=2, rendezvous="host:29500")
    with Machine(registry, run_id, tmp_path, training) as made:
        pass
    assert made.result() == {}
