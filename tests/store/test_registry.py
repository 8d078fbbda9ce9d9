"""Runs and versions in a real MLflow: SQLite, and a server on the loopback."""

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import registry as registries
from store.errors import ConflictError, NotFoundError, StoreError, UnreachableError
from store.points import Point
from store.registry import Registry

_names = (f"tickets-{n}" for n in itertools.count())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FIRST = """
import sys
from store.registry import Registry
registry = Registry(sys.argv[1], sys.argv[2], "tables")
registry.create()
run = registry.open_run("k", run_name="n", parameters={"a": 1})
registry.log_scores(run, {"a": 0.5}, {"a": 0})
registry.register(
    run, key="k", checkpoint_uri="file:///x", checkpoint_digest="d", tags={}, description=""
)
registry.close_run(run)
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, subprocess.CompletedProcess]:
    """A database for the module, because to make MLflow's tables takes seconds, and what the
    process that made it printed."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-c", FIRST, uri, str(folder / "artifacts")]
    return uri, subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def database(first: tuple[str, subprocess.CompletedProcess]) -> str:
    return first[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    uri = f"http://127.0.0.1:{free_port()}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database),
        *("--artifacts-destination", str(folder / "artifacts"), "--workers", "1"),
        *("--host", "127.0.0.1", "--port", uri.rpartition(":")[2]),
    ]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=quiet, start_new_session=True
        )
    try:
        wait_for(f"{uri}/health", process, folder / "log")
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the MLflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(params=["embedded", "server"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "server":
        made = Registry(request.getfixturevalue("server"), "", next(_names))
    else:
        made = embedded_at(request.getfixturevalue("database"), tmp_path)
    made.create()
    return made


@pytest.fixture
def embedded(database: str, tmp_path: Path) -> Registry:
    made = embedded_at(database, tmp_path)
    made.create()
    return made


def embedded_at(database: str, tmp_path: Path) -> Registry:
    return Registry(database, str(tmp_path / "my artifacts"), next(_names))


def run_of(registry: Registry, key: str = "u1", **parameters: object) -> str:
    return registry.open_run(
        key, run_name=f"update {key}", parameters=parameters, tags={"kind": "update"}
    )


def register(registry: Registry, run_id: str, key: str = "u1", digest: str = "d" * 64) -> str:
    return registry.register(
        run_id,
        key=key,
        checkpoint_uri=f"file:///store/{digest}",
        checkpoint_digest=digest,
        tags={"base": "none"},
        description="first",
    )


def client_of(registry: Registry):
    return registry._mlflow._client


def artifacts(registry: Registry, run_id: str, path: str | None = None) -> list[str]:
    return [f.path for f in client_of(registry).list_artifacts(run_id, path)]


def read_artifact(registry: Registry, run_id: str, path: str) -> str:
    return Path(client_of(registry).download_artifacts(run_id, path)).read_text()


def test_an_update_as_mlflow_shows_it(registry: Registry, tmp_path: Path) -> None:
    registry.create()
    run_id = run_of(registry, period="2018-Q2", learning_rate=1e-3)
    registry.log_config(run_id, {"training": {"epochs": 6}})
    registry.log_dataset(
        run_id, name="2018-Q2", digest="a" * 32 + ".dir", context="training", uri="2018-Q2@v1"
    )
    registry.log_curve(run_id, [Point(1, 1000, {"loss": 2.5, "examples_per_second": 100.0})])
    registry.log_curve(run_id, [Point(step, 1000, {"loss": 1 / step}) for step in range(2, 6)])
    registry.log_scores(run_id, {"2018-Q2": 0.5, "2018-Q3": 0.75}, {"2018-Q2": 0, "2018-Q3": 1})
    registry.log_summary(run_id, {"forgetting": 0.25, "flips": 3, "verdict": "accepted", "x": None})
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<html>")
    registry.log_artifacts(run_id, tmp_path / "report")
    registry.log_artifacts(run_id, tmp_path / "report", "plots")
    registry.close_run(run_id)

    run = client_of(registry).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "update u1"
    assert run.data.params == {"period": "2018-Q2", "learning_rate": "0.001"}
    assert run.data.metrics["accuracy/2018-Q3"] == 0.75
    assert (run.data.metrics["forgetting"], run.data.metrics["flips"]) == (0.25, 3)
    assert run.data.tags["verdict"] == "accepted"
    assert run.data.tags["kind"] == "update"
    assert "x" not in run.data.tags | run.data.metrics
    assert history(registry, run_id, "loss") == [
        (1, 2.5),
        (2, 1 / 2),
        (3, 1 / 3),
        (4, 1 / 4),
        (5, 1 / 5),
    ]
    assert history(registry, run_id, "accuracy_by_period") == [(0, 0.5), (1, 0.75)]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("2018-Q2", "a" * 32 + ".dir")
    assert json.loads(given.dataset.source) == {"url": "2018-Q2@v1"}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert json.loads(read_artifact(registry, run_id, "config.json")) == {"training": {"epochs": 6}}
    assert {"report.html", "plots"} <= set(artifacts(registry, run_id))


def history(registry: Registry, run_id: str, name: str) -> list[tuple[int, float]]:
    points = client_of(registry).get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_said_twice_is_kept_once(registry: Registry) -> None:
    for num_points in (3, 5):  # more points the second time: some are known, some are new
        run_id = run_of(registry, epochs=6)
        registry.log_curve(run_id, [Point(s, 1000 + s, {"loss": s / 3}) for s in range(num_points)])
        registry.log_scores(run_id, {"a": 0.5, "b": 0.25}, {"a": 0, "b": 1})
        registry.log_summary(run_id, {"forgetting": 0.5})
        registry.log_dataset(run_id, name="a", digest="x", context="training", uri="a@v1")
        version = register(registry, run_id)
    client = client_of(registry)
    assert version == "1"
    assert len(client.search_runs([registry._experiment])) == 1
    assert len(client.search_model_versions(f"name = '{registry.name}'")) == 1
    assert history(registry, run_id, "loss") == [(s, s / 3) for s in range(5)]
    assert history(registry, run_id, "accuracy_by_period") == [(0, 0.5), (1, 0.25)]
    assert history(registry, run_id, "accuracy/a") == [(0, 0.5)]
    assert history(registry, run_id, "forgetting") == [(0, 0.5)]
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 1


def test_a_score_that_changed_is_the_newer_point(embedded: Registry) -> None:
    run_id = run_of(embedded)
    for score in (0.75, 0.5, 0.5):
        embedded.log_scores(run_id, {"a": score}, {"a": 0})
        time.sleep(0.002)  # MLflow tells points of one step apart by the millisecond
    assert client_of(embedded).get_run(run_id).data.metrics == {
        "accuracy/a": 0.5,
        "accuracy_by_period": 0.5,
    }
    assert history(embedded, run_id, "accuracy/a") == [(0, 0.5), (0, 0.75)]


def test_what_a_worker_with_a_slower_clock_says_is_newer_all_the_same(
    embedded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow shows the value whose time is newest."""
    run_id = run_of(embedded)
    for hours, score in ((5, 0.75), (0, 0.5), (-5, 0.25)):
        with monkeypatch.context() as skewed:
            skewed.setattr(registries, "_now", lambda h=hours: int((time.time() + h * 3600) * 1000))
            embedded.log_scores(run_id, {"a": score}, {"a": 0})
            embedded.log_summary(run_id, {"forgetting": 1 - score})
    assert client_of(embedded).get_run(run_id).data.metrics == {
        "accuracy/a": 0.25,
        "accuracy_by_period": 0.25,
        "forgetting": 0.75,
    }
    again = history(embedded, run_id, "forgetting")
    embedded.log_summary(run_id, {"forgetting": 0.75})
    assert history(embedded, run_id, "forgetting") == again


def test_a_closed_run_is_opened_again(embedded: Registry) -> None:
    run_id = run_of(embedded, "killed")
    embedded.close_run(run_id)
    assert run_of(embedded, "killed") == run_id
    assert client_of(embedded).get_run(run_id).info.status == "RUNNING"
    assert run_of(embedded, "other") != run_id


def test_versions_point_and_carry_their_lineage(registry: Registry) -> None:
    run_id = run_of(registry)
    first = register(registry, run_id)
    second = register(registry, run_of(registry, "u2"), "u2", "e" * 64)
    assert (first, second) == ("1", "2")
    registry.set_version_tags(first, {"verdict": "accepted"})
    version = client_of(registry).get_model_version(registry.name, first)
    assert version.tags == {
        "base": "none",
        "verdict": "accepted",
        "updater.key": "u1",
        "checkpoint_digest": "d" * 64,
        "checkpoint_uri": f"file:///store/{'d' * 64}",
    }
    assert version.description == "first"
    assert version.source == f"runs:/{run_id}/model"
    assert json.loads(read_artifact(registry, run_id, "model/checkpoint.json")) == {
        "uri": f"file:///store/{'d' * 64}",
        "digest": "d" * 64,
    }
    with pytest.raises(ConflictError, match="never changes its checkpoint"):
        register(registry, run_id, "u1", "f" * 64)


def test_killed_between_the_artifact_and_the_version(
    embedded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = run_of(embedded)
    with monkeypatch.context() as patch:
        patch.setattr(client_of(embedded), "create_model_version", stop)
        with pytest.raises(KeyboardInterrupt):
            register(embedded, run_id)
    assert register(embedded, run_id) == "1"
    assert register(embedded, run_id) == "1"


def test_an_answer_that_was_lost_makes_no_second_one(
    embedded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run and the version were made, and the connection broke before we were told."""
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    client = client_of(embedded)
    for name in ("create_run", "create_model_version"):
        monkeypatch.setattr(client, name, losing_the_first_answer(getattr(client, name)))
    run_id = run_of(embedded)
    assert register(embedded, run_id) == "1"
    assert len(client.search_runs([embedded._experiment])) == 1
    assert len(client.search_model_versions(f"name = '{embedded.name}'")) == 1


def losing_the_first_answer(real):
    lost = iter([ConnectionResetError("peer")])

    def wrapped(*args, **kwargs):
        answer = real(*args, **kwargs)
        for error in lost:
            raise error
        return answer

    return wrapped


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_long_and_many_parameters(embedded: Registry) -> None:
    parameters = {"order": "x" * 7000, **{f"p{n}": n for n in range(150)}}
    run_id = run_of(embedded, **parameters)
    kept = client_of(embedded).get_run(run_id).data.params
    assert kept["order"] == "x" * 6000
    assert len(kept) == 151
    assert json.loads(read_artifact(embedded, run_id, "parameters.json"))["order"] == "x" * 7000


def test_another_value_of_a_parameter_is_a_conflict(registry: Registry) -> None:
    run_of(registry, epochs=6)
    with pytest.raises(ConflictError, match="epochs"):
        run_of(registry, epochs=7)


def test_many_periods_and_many_steps(embedded: Registry) -> None:
    run_id = run_of(embedded)
    periods = {f"p{n}": n / 1000 for n in range(700)}
    embedded.log_scores(run_id, periods, {p: n for n, p in enumerate(periods)})
    assert len(history(embedded, run_id, "accuracy_by_period")) == 700
    embedded.log_curve(run_id, [Point(s, 1000, {"loss": 1.0, "lr": 0.1}) for s in range(600)])
    assert len(history(embedded, run_id, "lr")) == 600


def test_what_is_not_finite(embedded: Registry, caplog: pytest.LogCaptureFixture) -> None:
    run_id = run_of(embedded)
    with caplog.at_level(logging.WARNING):
        embedded.log_curve(run_id, [Point(7, 1000, {"loss": float("nan"), "lr": 0.1})])
    assert "loss at step 7" in caplog.text
    for value in (float("nan"), float("inf"), -0.1, 1.1):
        with pytest.raises(ValueError, match=r"accuracy of a.*\[0, 1\]"):
            embedded.log_scores(run_id, {"a": value}, {"a": 0})
    with pytest.raises(ValueError, match="forgetting: nan"):
        embedded.log_summary(run_id, {"forgetting": float("nan"), "other": 1.0})
    assert client_of(embedded).get_run(run_id).data.metrics == {"lr": 0.1}


@pytest.mark.parametrize("ordinals", [{}, {"a": 0}, {"a": 1, "b": 1}])
def test_every_period_needs_an_ordinal_of_its_own(
    embedded: Registry, ordinals: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must give each of"):
        embedded.log_scores("run", {"a": 0.5, "b": 0.5}, ordinals)


def test_bad_keys_and_digests(embedded: Registry) -> None:
    for key in ("", "it's", 'a"b', "a`b"):
        with pytest.raises(ValueError, match="key"):
            run_of(embedded, key)
        with pytest.raises(ValueError, match="key"):
            register(embedded, "run", key)
    with pytest.raises(ValueError, match="36 characters"):
        embedded.log_dataset("run", name="a", digest="d" * 64, context="training", uri="a@v1")


def test_what_is_not_there(registry: Registry, database: str) -> None:
    with pytest.raises(NotFoundError):
        registry.close_run("f" * 32)
    with pytest.raises(NotFoundError):
        registry.set_version_tags("99", {"a": "b"})
    nameless = Registry(registry._mlflow.uri, "", "never-made")
    with pytest.raises(NotFoundError, match="no active experiment never-made; run `updater init`"):
        run_of(nameless)


def test_what_mlflow_refuses(registry: Registry) -> None:
    with pytest.raises(StoreError, match="refused"):
        run_of(registry, **{"bad\nname": 1})


def test_a_server_that_is_not_there_is_told_in_seconds() -> None:
    registry = Registry(f"http://me:secret@127.0.0.1:{free_port()}", "", "x")
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="MLflow at http://127") as told:
        registry.create()
    assert "secret" not in str(told.value)
    assert time.monotonic() - started < 15


def test_databases_that_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda _: None)
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Registry(f"sqlite:///{tmp_path}/text.db", "", "x").create()
    with pytest.raises(UnreachableError):
        Registry(f"sqlite:///{tmp_path}/none/mlflow.db", "", "x").create()
    with pytest.raises(StoreError, match="no database URL"):
        Registry("nonsense", "", "x").create()


def test_an_artifact_folder_that_takes_nothing(database: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(database, str(tmp_path / "file" / "artifacts"), next(_names))
    registry.create()
    run_id = run_of(registry)
    with pytest.raises(StoreError, match="MLflow at sqlite"):
        registry.log_config(run_id, {})


def test_nothing_is_printed_from_the_first_table_on(
    first: tuple[str, subprocess.CompletedProcess],
) -> None:
    """In a process of its own: logging as a user has it."""
    _, done = first
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_first_making_that_is_killed_is_made_again(tmp_path: Path) -> None:
    """At any moment of the migrations, and whatever it leaves; each kill comes upon the last's."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    making = "import sys; from store.registry import Registry; Registry(*sys.argv[1:]).create()"
    for seconds in (0, 0.3, 1.0, 2.0):
        command = [sys.executable, "-c", making, uri, str(tmp_path / "artifacts"), "w"]
        before = written(tmp_path)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while written(tmp_path) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(seconds)
            process.kill()
    (tmp_path / "mlflow.db.partial").write_text("left over")
    (tmp_path / "mlflow.db.partial-wal").write_text("left over")
    made = Registry(uri, str(tmp_path / "artifacts"), "w")
    made.create()
    assert run_of(made)


def written(folder: Path) -> set[int]:
    """What stands for the files of an MLflow database; SQLite may take one away meanwhile."""
    return {entry.inode() for entry in os.scandir(folder) if entry.name.startswith("mlflow.db")}


def test_a_database_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """What was beside a lost one, which SQLite would play into the new one, goes with it."""
    for name in ("mlflow.db.partial", "mlflow.db-wal"):
        (tmp_path / name).write_text("left over")
    Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path), "w").create()
    assert not list(tmp_path.glob("mlflow.db.partial*"))
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
