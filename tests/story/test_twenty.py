"""Twenty workspaces that update at once, on four workers and shared servers, as each would alone.

One PostgreSQL server (a schema each, and MLflow's tables), one MLflow server, one object store.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import command
from many_jobs import First, learn
from mlflow_server import mlflow_server
from object_store import ObjectStore, keys, object_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM, WORKERS, SEEDS = 20, 4, 2
MARGIN = ("margin_fraction = 0.2", "margin_fraction = 0.5")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> First:
    """A workspace that has deployed its first model, of north, and is never updated itself."""
    folder = lay_out(tmp_path_factory.mktemp("first") / "ws")
    config = folder / "updater.toml"
    text = config.read_text()
    assert MARGIN[0] in text
    config.write_text(text.replace(*MARGIN))  # so that every seed's candidate is promoted
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "--deploy")
    return First.of(folder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with object_store(tmp_path, "checkpoints", "datasets", "mlflow") as store:
        yield store


@pytest.fixture
def shared(postgres_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[dict[str, str]]:
    """The environment of every worker, as docker-compose.yml has it."""
    tables = postgres_url.replace("postgresql+psycopg", "postgresql")
    options = ("--backend-store-uri", tables, "--artifacts-destination", "s3://mlflow")
    with mlflow_server(tmp_path, *options, environ=store.environ) as mlflow:
        yield {
            **store.environ,
            "UPDATER_STORE_URL": f"{postgres_url}?options=-csearch_path%3D%22{{workspace}}%22",
            "UPDATER_STORE_MLFLOW_URI": mlflow,
            "UPDATER_STORE_CHECKPOINTS": "s3://checkpoints/{workspace}",
            "UPDATER_STORE_DVC_REMOTE": "s3://datasets/{workspace}",
            "UPDATER_ACTOR": "worker",
        }


def test_twenty_at_once_come_to_what_each_comes_to_alone(
    first: First, shared: dict[str, str], store: ObjectStore, tmp_path: Path
) -> None:
    scratch = tmp_path / "temporary"
    scratch.mkdir()
    names = [f"model-{number:02}" for number in range(NUM)]
    quiet = {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "UPDATER_ACTOR": "worker"}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawn) as workers:
        alone = [
            workers.submit(learn, first, tmp_path / f"alone-{seed}", seed, quiet, "east").result()
            for seed in range(SEEDS)
        ]
        jobs = [
            workers.submit(learn, first, tmp_path / name, n % SEEDS, {**quiet, **shared}, "east")
            for n, name in enumerate(names)
        ]
        found = [job.result() for job in jobs]
    assert len({one["digest"] for one in alone}) == SEEDS, "one learnt by another seed is seen"
    assert all(one["answer"]["promoted"] for one in alone)
    for number, one in enumerate(found):
        same = alone[number % SEEDS]
        for what in ("digest", "scores", "events"):
            assert one[what] == same[what], (names[number], what)
        assert one["answer"]["verdict"] == same["answer"]["verdict"]
        assert one["answer"]["promoted"] == same["answer"]["promoted"]
        assert sum(kind == "promoted" and mine for _, kind, _, _, mine in one["events"]) == 1
    assert not list(scratch.iterdir()), "nothing is left among temporary files"
    check_mlflow(shared, dict(zip(names, found, strict=True)))
    check_objects(store, dict(zip(names, found, strict=True)), first)


def check_mlflow(shared: dict[str, str], found: dict[str, dict[str, Any]]) -> None:
    """Every workspace's experiment has its own runs, and its model its own two versions."""
    from mlflow import MlflowClient

    mlflow = MlflowClient(shared["UPDATER_STORE_MLFLOW_URI"])
    experiments = {e.name: e.experiment_id for e in mlflow.search_experiments()}
    assert experiments.keys() == {*found, "Default"}
    assert {model.name for model in mlflow.search_registered_models()} == set(found)
    for name, one in found.items():
        runs = {run.info.run_id: run for run in mlflow.search_runs([experiments[name]])}
        assert runs.keys() >= set(one["runs"])
        of_updates = [r for r in runs.values() if r.info.run_id in one["runs"]]
        assert all(run.info.status == "FINISHED" for run in runs.values())
        assert len(runs) == 1 + len(of_updates), "and the model's life"
        versions = mlflow.search_model_versions(f"name = '{name}'")
        assert {v.version: v.run_id in runs for v in versions} == {"1": True, "2": True}
        digests = {v.version: v.tags["checkpoint_digest"] for v in versions}
        assert digests["2"] == one["digest"]
        assert str(mlflow.get_model_version_by_alias(name, "deployed").version) == "2"
    assert not mlflow.search_runs([experiments["Default"]])


def check_objects(store: ObjectStore, found: dict[str, dict[str, Any]], first: First) -> None:
    """Every workspace's checkpoints lie below its own name, and no others."""
    assert {tuple(key.split("/")[:2]) for key in keys(store, "checkpoints")} == {
        (name, digest)
        for name, one in found.items()
        for digest in (one["digest"], first.version.digest)
    }
    assert {key.split("/")[0] for key in keys(store, "datasets")} == set(found)
