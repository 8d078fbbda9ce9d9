"""An object store in trouble, by S3's protocol: what is said, and that nothing stands by halves."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from object_store import EXPIRED, FULL, ObjectStore, keys, object_store

from store.checkpoints import Checkpoints
from store.datasets import Datasets
from store.errors import DeniedError, StoreError
from store.registry import Registry

pytestmark = pytest.mark.slow

DENIED = (
    r"refused the sign-in \(400\)\. The credentials are wrong or have expired: set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN"
)
SKEWED = r"more than 15 minutes apart\. Set this machine's clock by NTP"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3"), "checkpoints", "datasets", "art") as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "NO_PROXY": "*"}
    for name, value in {**names, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield server
    server.fail(None)
    server.clock = timedelta()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(tmp_path.name.encode() * 100)
    return tmp_path / "model"


def version(root: Path) -> tuple[Datasets, str]:
    datasets = Datasets.create(root, "s3://datasets/tickets")
    staging = root / ".staging-a"
    staging.mkdir()
    (staging / "train.parquet").write_text(root.parent.name)
    return datasets, datasets.commit("a", staging, "a").version


def test_an_expired_token_is_told_with_its_cure_and_a_new_one_goes_on(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    checkpoints = Checkpoints("s3://checkpoints/expired", tmp_path / "cache")
    datasets, a_v1 = version(tmp_path / "ws")
    store.fail(EXPIRED)
    with pytest.raises(DeniedError, match=f"^s3://checkpoints/expired {DENIED}"):
        checkpoints.add(model)
    with pytest.raises(DeniedError, match=f"^the DVC remote s3://datasets/tickets {DENIED}"):
        datasets.push([a_v1])
    store.fail(None)
    digest = checkpoints.add(model)
    assert datasets.push([a_v1]) == 2
    store.fail(EXPIRED)
    for ask in (checkpoints.quick_check, checkpoints.local):
        with pytest.raises(DeniedError, match=DENIED):
            ask(digest)


def test_a_full_store_has_no_half_checkpoint_and_takes_it_when_there_is_room(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    checkpoints = Checkpoints("s3://checkpoints/full", tmp_path / "cache")
    datasets, a_v1 = version(tmp_path / "ws")
    store.fail(FULL)
    with pytest.raises(
        StoreError, match=r"no space left at s3://checkpoints/full \(XMinioStorageFull\); free some"
    ):
        checkpoints.add(model)
    with pytest.raises(StoreError, match=r"2 of 2 objects could not be copied .*MinioStorageFull"):
        datasets.push([a_v1])
    assert checkpoints.digests() == []
    store.fail(None)
    digest = checkpoints.add(model)
    assert checkpoints.digests() == [digest]
    assert datasets.push([a_v1]) == 2


@pytest.mark.parametrize("hours", [5, -5])
def test_a_clock_that_is_hours_wrong_is_told_with_both_times(
    store: ObjectStore, model: Path, tmp_path: Path, hours: int
) -> None:
    checkpoints = Checkpoints("s3://checkpoints/skewed", tmp_path / "cache")
    datasets, a_v1 = version(tmp_path / "ws")
    store.clock = timedelta(hours=hours)
    with pytest.raises(DeniedError, match=f"its clock, 20.* there, and this machine's.*{SKEWED}"):
        checkpoints.add(model)
    with pytest.raises(DeniedError, match=SKEWED):
        datasets.push([a_v1])
    store.clock = timedelta(minutes=10 if hours > 0 else -10)
    checkpoints.quick_check(checkpoints.add(model))


def test_an_artifact_that_mlflow_can_not_keep_is_no_lost_mlflow(
    store: ObjectStore, tmp_path: Path
) -> None:
    """The server answers 500 whatever its store says, and is there."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "plot.png").write_bytes(b"x" * 10_000)
    with mlflow_server(tmp_path, "--artifacts-destination", "s3://art") as url:
        registry = Registry(url, "", "tickets")
        registry.create()
        run = registry.open_run("u1", run_name="n", parameters={})
        model = {"checkpoint_uri": "s3://x", "checkpoint_digest": "d", "tags": {}}
        for fault in (FULL, EXPIRED):
            store.fail(fault)
            with pytest.raises(
                StoreError, match=r"can't keep artifacts \(it answered 500\): where it keeps them"
            ):
                registry.log_artifacts(run, tmp_path / "more")
            with pytest.raises(StoreError, match="can't keep artifacts"):
                registry.register(run, key="u1", description="", **model)
        store.fail(None)
        assert not [key for key in keys(store, "art") if "plot" in key or "model" in key]
        assert registry.register(run, key="u1", description="", **model) == "1"
        registry.log_artifacts(run, tmp_path / "more")
        assert any(key.endswith("plot.png") for key in keys(store, "art"))
