"""What tests of several packages share: a tiny architecture, databases, a ledger with a story."""

import contextlib
import gc
import json
import logging
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from store.ledger import DatasetVersion, Ledger, ModelVersion, Update, migrate, open_ledger
from store.ledger.tables import Row

POSTGRES = os.environ.get(
    "UPDATER_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test"
)
# The tests run several at a time, and the models are tiny: threads that wait for each other by
# spinning made a training step 20 times as slow. Read by torch when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most tests hold the CPU to exact equality, and make their own tensors on it. Those of the GPU run
# where it is asked for: `make test-gpu`.
if "UPDATER_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
START = datetime(2026, 1, 1, tzinfo=UTC)
# A Nemotron-H with Mamba-2, attention and Mixture-of-Experts layers, as small as it can be and
# still learn a few words.
ARCHITECTURE: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*E",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
    "intermediate_size": 64,
    "mlp_hidden_act": "relu2",
    "max_position_embeddings": 512,
    "time_step_limit": [0.0, 1e9],
    "use_cache": True,
}


def pytest_configure() -> None:
    """Tests of the GPU that were asked for and all skipped would look as if they had passed."""
    if "UPDATER_TEST_GPU" in os.environ:
        import torch

        if not torch.cuda.is_available():
            raise pytest.UsageError("UPDATER_TEST_GPU is set, and torch sees no GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first, so that at the end no worker waits for another's; then
    those with many tests. Coverage is of the quick tests and of all fixtures: to follow a training
    line by line takes a third of its time on top, and most of what slow tests run are other
    processes."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        item.add_marker("no_cover")  # pytest-cov's
    slow_files, counts = {item.path for item in slow}, Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow_files, -counts[item.path]))


def pytest_collection_finish() -> None:
    """What was imported stays: Python's collector, which looked at all of it again and again, took
    a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What is frozen would be told as leaked at the end by libraries that look."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_json() -> str:
    """The text of a config.json: an architecture that trains in seconds."""
    return json.dumps(ARCHITECTURE)


@pytest.fixture
def forked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many processes are forked, and not torchrun's, which import all anew: for tests of what they
    come to. But of a case that is marked `torchrun`."""
    if request.node.get_closest_marker("torchrun"):
        return
    from forked_workers import ForkedWorkers

    from updater.launch import processes

    there = SimpleNamespace(
        Popen=ForkedWorkers,
        DEVNULL=subprocess.DEVNULL,
        TimeoutExpired=subprocess.TimeoutExpired,
    )
    monkeypatch.setattr(processes, "subprocess", there)


def missing(service: str, error: Exception) -> None:
    """Skip for want of a service; under CI=true its absence is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{service} is missing, and CI needs it: {error}")
    pytest.skip(f"{service} can't be reached: {error}")


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The URL of a database of its own on the PostgreSQL server; gone afterwards."""
    server = make_url(POSTGRES)
    plain = server.set(drivername="postgresql").render_as_string(hide_password=False)
    name = f"updater_{uuid.uuid4().hex[:12]}"
    try:
        connection = psycopg.connect(plain, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing("PostgreSQL", error)
    with connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield server.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database, for this test alone."""
    with new_database() as url:
        yield url


@pytest.fixture(scope="session")
def _shared_ledger_url() -> Iterator[str]:
    with new_database() as url:
        migrate(url)
        yield url


@pytest.fixture
def postgres_ledger_url(_shared_ledger_url: str) -> str:
    """A migrated, empty ledger on PostgreSQL. One for all tests, emptied before each: making one
    takes half a second."""
    plain = make_url(_shared_ledger_url).set(drivername="postgresql")
    with psycopg.connect(plain.render_as_string(hide_password=False)) as connection:
        for table in reversed(Row.metadata.sorted_tables):  # faster than TRUNCATE, which syncs
            connection.execute(f'DELETE FROM "{table.name}"')
    return _shared_ledger_url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: every test that takes it runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty ledger: every test that takes it runs on both."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_ledger_url"))
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    return url


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return open_ledger(ledger_url)


@pytest.fixture(autouse=True)
def _fresh_logger() -> Iterator[None]:
    """What one test's command line makes of the logger, the next one does not inherit."""
    logger = logging.getLogger("updater")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


class Story:
    """Writes into a ledger what the steps would have: one period and one update per version."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def dataset(self, period: str, number: int = 1) -> DatasetVersion:
        """Dataset version `PERIOD@vN` of a period that may be new."""
        ordinal = len(self.ledger.periods())
        if period not in [p.id for p in self.ledger.periods()]:
            self.ledger.record_period(period, ordinal, START, START + timedelta(days=31))
        version = DatasetVersion(
            id=f"{period}@v{number}",
            period=period,
            commit="c0ffee",
            digest=f"{period}{number}",
            num_train=90,
            num_holdout=10,
            num_quarantined=3,
            num_duplicates=1,
            num_leaked=0,
            schema={"prompt": "string"},
            created_at=START,
        )
        self.ledger.record_dataset_version(version)
        return version

    def update(self, id: str, base: str | None, *, kind: str = "") -> Update:
        """An update called `id` of the period `p-ID`, with ingest finished."""
        update = self.ledger.open_update(
            Update(
                id=id,
                kind=kind or ("scratch" if base is None else "update"),
                period=f"p-{id}",
                base=base,
                dataset_version=self.dataset(f"p-{id}").id,
                config={"training": {"seed": 0}},
                config_digest="d1",
                candidate=None,
                created_at=START,
            )
        )
        self.step(id, "ingest")
        return update

    def step(self, update: str, name: str, result: dict | None = None) -> None:
        self.ledger.start_step(update, name)
        self.ledger.finish_step(update, name, result or {}, 0.5)

    def version(
        self, id: str, base: str | None, *, update: str | None = None, digest: str = ""
    ) -> ModelVersion:
        """Version `id`, made by `update`, which has it for its candidate."""
        version = ModelVersion(
            id=id,
            kind="scratch" if base is None else "update",
            base=base,
            update=update,
            digest=digest or f"sha-{id}",
            uri=f"checkpoints/{digest or f'sha-{id}'}",
            periods=["p"],
            dataset_versions={"p": "p@v1"},
            run_id=f"run-{id}",
            created_at=START,
        )
        self.ledger.record_model_version(version)
        if update is not None:
            self.ledger.set_candidate(update, id)
            self.step(update, "train", {"version": id})
        return version

    def judge(self, update: str, verdict: str, *, verified: bool = True) -> None:
        """The gate's verdict on the update, and its candidate verified in a clean process."""
        if verified:
            candidate = self.ledger.update(update).candidate
            self.ledger.append("verified", candidate, actor="t", reason="same", update=update)
        self.ledger.record_verdict(update, verdict, reasons=["why"], comparisons=[], rule={})

    def candidate(self, id: str, base: str | None, verdict: str = "accepted") -> str:
        """Version `id` from update `u-ID`, judged and verified, not yet released: the update."""
        update = self.update(f"u-{id}", base)
        self.version(id, base, update=update.id)
        self.judge(update.id, verdict)
        return update.id


@pytest.fixture
def story_of() -> Callable[[Ledger], Story]:
    return Story


@pytest.fixture
def story(ledger: Ledger) -> Story:
    return Story(ledger)


class MlflowTables:
    """The registry's tables of an embedded MLflow, by MLflow's own definitions, at `url`.

    Through MLflow itself they would take seconds; the aliases' own tests do that.
    """

    def __init__(self, url: str, name: str) -> None:
        from mlflow.store.model_registry.dbmodels import models

        self.url, self.name = url, name
        self._versions = models.SqlModelVersion
        tables = [models.SqlRegisteredModel, models.SqlModelVersion, models.SqlRegisteredModelAlias]
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        models.Base.metadata.create_all(self._engine, tables=[t.__table__ for t in tables])
        with self._engine.begin() as connection:
            connection.execute(sa.insert(models.SqlRegisteredModel).values(name=name))

    def register(self, *versions: str) -> None:
        with self._engine.begin() as connection:
            for version in versions:
                row = {"name": self.name, "version": int(version), "current_stage": "None"}
                connection.execute(sa.insert(self._versions).values(row))


@pytest.fixture
def mlflow_tables(tmp_path: Path) -> MlflowTables:
    """An embedded MLflow with the registered model `m` and its versions 1 to 9."""
    tables = MlflowTables(f"sqlite:///{tmp_path / 'mlflow.db'}", "m")
    tables.register(*"123456789")
    return tables
