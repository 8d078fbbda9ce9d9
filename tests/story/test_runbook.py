"""docs/runbook.md: every command of it, in the situation that its section describes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from commands import answered, command, said
from disks import small_disk
from mlflow_server import free_port, mlflow_with_logins
from object_store import EXPIRED, FULL, ObjectStore, keys, object_store
from runbook import Section, sections, shell
from sqlalchemy.engine import make_url
from stack import GUARD

from store.checkpoints import Checkpoints
from store.errors import NotFoundError
from store.ledger import migrate
from updater import versions
from updater.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FORGETFUL = (
    *("--set", "rehearsal.policy=none", "--set", "regularizer.method=none"),
    *("--set", "training.learning_rate=2e-2", "--set", "gate.margin_fraction=0.01"),
)
ELSEWHERE = {
    "Roll back by Airflow": "tests/service/test_stack.py",
    "A task stays queued": "tests/service/test_stack.py",
    "Other pipelines were not told": "tests/dags/test_release_dags.py",
}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """Versions 1 and 2 were deployed, 3 was rejected by the gate, 4 waits for a person."""
    folder = lay_out(tmp_path_factory.mktemp("runbook") / "ws")
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "--deploy")
    assert command(folder, "update", "east")["promoted"]
    assert command(folder, "update", "south", *FORGETFUL)["verdict"] == "rejected"
    held = command(folder, "update", "west", "--set", "gate.approval=manual")
    assert held["verdict"] in ("accepted", "review")
    return folder


@pytest.fixture
def folder(story: Path, tmp_path: Path) -> Path:
    """A copy. (By another process: to close a copied SQLite file would drop this one's locks.)"""
    return copied(story, tmp_path / "ws")


def copied(folder: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", f"{folder}/.", str(to)], check=True)
    return to


def update_of(folder: Path, version: str) -> str:
    return str(Workspace.open(folder).ledger.model_version(version).update)


def state(folder: Path) -> tuple[str, bool, list[str]]:
    status = command(folder, "status")
    return status["deployed"], status["consistent"], status["unfinished"]


def promotions(folder: Path, version: str) -> int:
    events = command(folder, "history")["events"]
    return [(e["kind"], e["version"]) for e in events].count(("promoted", version))


def test_every_section_with_commands_is_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    missing = [h for h in sections() if f'Section("{h}"' not in text and h not in ELSEWHERE]
    assert missing == []
    for heading, file in ELSEWHERE.items():
        assert f'Section("{heading}"' in (Path(__file__).parents[2] / file).read_text("utf-8")


def test_the_state_is_seen(folder: Path) -> None:
    with Section("The state in ten seconds") as section:
        seen = section.run("updater status", folder)
        assert "promoted at 20" in seen
        assert "accepted by the gate" in section.run("updater history", folder)
        other = copied(folder, folder.with_name("busy"))
        with Workspace.open(other).lock():
            assert shell(section.commands[-1], other, code=1) == ""
        assert section.run("flock", folder) == "nobody is at work\n"
        assert (folder / ".lock").read_text() == ""


def test_roll_back(folder: Path) -> None:
    with Section("Roll back") as section:
        assert "would deploy 1" in section.run("updater rollback --dry", folder)
        assert state(folder)[0] == "2"
        section.run("updater rollback --reason", folder)
        section.run("updater status", folder)
        assert state(folder)[:2] == ("1", True)
        section.run("updater promote", folder, VERSION="2")
        assert state(folder)[:2] == ("2", True)
        section.run("updater rollback --to", folder, VERSION="1")
        assert state(folder)[:2] == ("1", True)
        command(folder, "promote", "2", "--reason", "drill")
        command(folder, "promote", "3", "--reason", "drill", "--force")
        digest = Workspace.open(folder).ledger.model_version("2").digest
        shutil.move(folder / "checkpoints" / digest, folder / "lost")
        section.hear(said(folder, "rollback", "--reason", "drill", code=2)[1])
        assert state(folder)[0] == "3"


def test_an_update_began_at_what_was_taken_back(folder: Path) -> None:
    begun = command(folder, "step", "ingest", "--period", "south")["update"]
    command(folder, "rollback", "--reason", "wrong answers")
    assert command(folder, "status")["superseded"][0]["update"] == begun
    words = {"UPDATE": begun, "BASE": "2", "VERSION": "1", "PERIOD": "south"}
    with Section("An update began at what was taken back", **words) as section:
        section.hear(said(folder, "step", "rehearse", "--update", begun, code=2)[1])
        section.run("updater update", folder)
    status = command(folder, "status")
    assert "south" in status["learnt"] or status["awaiting_approval"]
    assert begun not in status["unfinished"]
    assert status["superseded"] == []


def test_a_period_has_no_rows(folder: Path) -> None:
    config = folder / "updater.toml"
    config.write_text(config.read_text().replace('"west"]', '"west", "pole"]'))
    with Section("A period has no rows", PERIOD="pole") as section:
        section.hear(said(folder, "update", "pole", code=2)[1])
        assert "pole" in command(folder, "due")["due"]
        section.run("updater skip", folder)
        assert "pole" not in section.run("updater due", folder)


def test_an_update_hangs(folder: Path, tmp_path: Path) -> None:
    """A training that is stopped by SIGSTOP does not even hear SIGTERM."""
    with (folder / "updater.toml").open() as file:
        text = file.read()
    (folder / "updater.toml").write_text(text.replace("epochs = 6", "epochs = 9"))
    words = [sys.executable, "-c", "from updater.cli import main; main()"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*words, "--workspace", str(folder), "update", "south"], stdout=log, stderr=log
        )
    try:
        update = hung(folder, process, tmp_path / "log")
        with (
            Section("An update hangs or was killed", UPDATE=update) as section,
            Section("Two schedulers") as second,
        ):
            for one in (section, second):
                one.hear(said(folder, "update", "south", code=1)[1])
            section.hear(said(folder, "abandon", update, "--reason", "no", code=1)[1])
            assert '"step"' in section.run("tail", folder)
            assert str(process.pid) in section.run("ps ", folder)
            section.run('flock -n .lock true || kill "', folder)
            time.sleep(1)
            assert process.poll() is None
            section.run("flock -n .lock true || kill -9", folder)
            assert process.wait(30) == -signal.SIGKILL
            assert state(folder) == ("2", True, [update])
            other = copied(folder, tmp_path / "given up")
            section.run("updater abandon", other)
            assert state(other) == ("2", True, [])
            assert not (other / "runs" / update / "training").exists()
            section.run("updater update", folder, PERIOD="south")
            assert state(folder)[2] == []
            assert command(folder, "update", "south")["update"] == update
            second.run("updater history", folder)
            assert promotions(folder, "2") == 1
    finally:
        process.kill()
        process.wait()


def hung(folder: Path, process: subprocess.Popen, log: Path) -> str:
    """The update that the process trains, once it has saved a state; it is stopped then."""
    end = time.monotonic() + 280
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        for update in command(folder, "status")["unfinished"]:
            if list((folder / "runs" / update / "training").rglob("*.safetensors")):
                process.send_signal(signal.SIGSTOP)
                return str(update)
        time.sleep(0.2)


def test_the_gate_is_disputed(folder: Path, tmp_path: Path) -> None:
    waiting = update_of(folder, "4")
    other = copied(folder, tmp_path / "other")
    with Section("The gate is disputed", UPDATE=waiting, VERSION="3", BASE="2") as section:
        assert "rejected" in section.run("updater show", folder)
        with Workspace.open(folder).lock():  # a training is on
            assert "east" in section.run("updater compare", folder)
        section.run("updater report", folder, environ={"COLUMNS": "99"})
        assert "rejected" in (folder / "report.html").read_text("utf-8")
        section.run("updater approve", folder)
        assert state(folder)[:2] == ("4", True)
        section.run("updater reject", other)
        assert command(other, "status")["awaiting_approval"] == []
        section.hear(said(other, "promote", "3", "--reason", "r", code=2)[1])
        section.run("UPDATER_ACTOR=ann updater promote", other)
        assert state(other)[:2] == ("3", True)
        told = section.run("updater history", other)
        assert "ann" in told
        assert "asked for by Joe, owner of refunds" in told
        assert command(other, "show", "3")["verdict"] == "rejected"
        section.run("updater rollback", other)
        assert state(other)[:2] == ("2", True)


def fill(disk: Path, *, but_bytes: int = 0) -> Path:
    """A file that takes all room of the disk but so many bytes."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free - but_bytes
    ballast.write_bytes(b"x" * max(0, free))
    return ballast


def test_the_disk_is_full(story: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        folder = copied(story, disk / "ws")
        with (folder / "updater.toml").open("a") as file:
            file.write(f'[store]\ndvc_remote = "{tmp_path / "remote"}"\n')
        before = state(folder)
        going = ("update", "south")
        with Section("The disk is full", VERSION="3") as section:
            for room in (0, 200_000, 1_000_000):
                ballast = fill(disk, but_bytes=room)
                section.hear(said(folder, *going, code=1)[1])
                ballast.unlink()
                assert state(folder)[:2] == before[:2]
            (update,) = state(folder)[2]
            assert "/disk" in section.run("df", folder)
            assert ".dvc" in section.run("du", folder)
            other = copied(folder, tmp_path / "given up")
            section.run("updater abandon", other, UPDATE=update)
            assert state(other)[2] == []
            section.run("rm -rf cache", folder)
            digest = json.loads(section.run("updater show", folder).splitlines()[-1])["digest"]
            section.run("rm -rf checkpoints", folder, DIGEST=digest)
            assert not (folder / "checkpoints" / digest).exists()
            section.run("updater init", folder)
            assert not (folder / "data" / "east").exists()
            section.run("updater update", folder, PERIOD="south")
            deployed, consistent, unfinished = state(folder)
            assert (consistent, unfinished) == (True, [])
            assert promotions(folder, "5") == (deployed == "5")


def test_dvc_gc_is_as_bad_as_the_page_says(folder: Path) -> None:
    datasets = Workspace.open(folder).datasets
    assert datasets.path("east@v1", "train.parquet").is_file()
    shell("dvc gc --workspace --force", folder)
    with pytest.raises(NotFoundError, match="is not whole in the DVC cache"):
        datasets.path("east@v1", "train.parquet")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(tmp_path, "checkpoints", "datasets") as made:
        given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "NO_PROXY": "*"}
        for name, value in {**given, "AWS_ENDPOINT_URL": made.url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield made


def test_the_object_store_is_full_then_closed_then_its_clock_is_wrong(
    folder: Path, store: ObjectStore, tmp_path: Path
) -> None:
    """At each step that writes to it, and at every read: nothing by halves, one promotion."""
    workspace = Workspace.open(folder)
    shelf = Checkpoints("s3://checkpoints/story", tmp_path / "cache")
    for digest in workspace.checkpoints.digests():
        shelf.add(workspace.checkpoints.local(digest))
    shutil.rmtree(folder / "checkpoints")
    with (folder / "updater.toml").open("a") as file:
        file.write('[store]\ncheckpoints = "s3://checkpoints/story"\n')
        file.write('dvc_remote = "s3://datasets/story"\n')  # which has nothing yet
    with (
        Section("The object store is full") as full,
        Section("A token has expired, or a password is wrong") as expired,
        Section("Clocks differ") as clocks,
    ):
        whole = keys(store, "checkpoints")
        for fault, hours, section in ((FULL, 0, full), (EXPIRED, 0, expired), (None, 5, clocks)):
            store.fail(fault, "datasets")
            store.clock = timedelta(hours=hours)
            section.hear(said(folder, "update", "south", code=1)[1])
            store.fail(None)
            store.clock = timedelta()
            assert state(folder) == ("2", True, []), "no update was opened"
        update = command(folder, "step", "ingest", "--period", "south")["update"]
        for name in ("rehearse", "importance"):
            command(folder, "step", name, "--update", update)
        for fault, hours, section in ((FULL, 0, full), (EXPIRED, 0, expired), (None, 5, clocks)):
            store.fail(fault, "checkpoints")
            store.clock = timedelta(hours=hours)
            section.hear(said(folder, "step", "train", "--update", update, code=1)[1])
            store.fail(None)
            store.clock = timedelta()
            assert state(folder) == ("2", True, [update])
            assert keys(store, "checkpoints") == whole
            assert versions_of(folder) == ["1", "2", "3", "4"]
        full.run("updater update", folder, PERIOD="south")
        full.run("updater status", folder)
        deployed, consistent, unfinished = state(folder)
        assert (consistent, unfinished) == (True, [])
        assert versions_of(folder) == ["1", "2", "3", "4", "5"]
        assert promotions(folder, "5") == (deployed == "5")
        full.sayings = [one for one in full.sayings if "MLflow at" not in one]  # test_object_store
        expired.sayings = [one for one in expired.sayings if "MLflow at" not in one]
        expired.commands = []  # test_mlflow_is_lost
        tick(clocks, tmp_path / "monthly")
        assert "UTC" in clocks.run("date", folder)
        clocks.commands = [one for one in clocks.commands if not one.startswith("psql")]


def tick(section: Section, folder: Path) -> None:
    """The scheduler's clock is ahead of the ledger's."""
    folder.mkdir()
    (folder / "updater.toml").write_text(
        '[workspace]\nname = "m"\n[source]\nuri = "rows.jsonl"\n[source.fields]\n'
        'prompt = "{text}"\ncompletion = "{label}"\ndate = "{date}"\n'
        '[periods]\nevery = "month"\nholdout_fraction = 0.3\n'
    )
    migrate(Workspace.open(folder).ledger_url)
    partition = ("step", "ingest", "--partition", "2999-04-01T00:00:05")
    section.hear(said(folder, *partition, code=1)[1])


def versions_of(folder: Path) -> list[str]:
    """By the ledger and by MLflow, which agree."""
    workspace = Workspace.open(folder)
    found = workspace.registry._mlflow.ask(lambda c: c.search_model_versions("name='story'"))
    shown = sorted(str(version.version) for version in found)
    assert shown == [version.id for version in workspace.ledger.model_versions()]
    return shown


PASSWORD = "a-password-of-this-test"


def test_mlflow_refuses_us_and_is_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    own = {"HOME": str(tmp_path), "UPDATER_STORE_MLFLOW_URI": f"http://127.0.0.1:{port}"}
    for name, value in {**own, "MLFLOW_TRACKING_USERNAME": "admin"}.items():
        monkeypatch.setenv(name, value)
    with (
        Section("MLflow is lost", VERSION="1") as lost,
        Section("A token has expired, or a password is wrong", PERIOD="east") as expired,
    ):
        with mlflow_with_logins(folder, PASSWORD, port=port):
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
            expired.hear(said(folder, "rollback", "--reason", "r", code=1)[1])
            assert state(folder)[:2] == ("1", False)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            expired.run("updater status --repair", folder)
            assert state(folder)[:2] == ("1", True)
            command(folder, "promote", "2", "--reason", "back", "--force")
            expired.run("updater update", folder)
            assert state(folder) == ("2", True, [])
            expired.sayings = [one for one in expired.sayings if "s3" not in one]  # see above
        seen = lost.run("updater status", folder)
        assert "consistent" in seen
        lost.run("updater rollback", folder, code=1)
        assert state(folder)[:2] == ("1", False)
        lost.hear(said(folder, "update", "south", code=1)[1])
        assert state(folder)[2] == []
        with mlflow_with_logins(folder, PASSWORD, port=port):
            lost.run("updater status --repair", folder)
            assert state(folder)[:2] == ("1", True)
        empty = f"sqlite:///{tmp_path / 'empty.db'}"
        monkeypatch.setenv("UPDATER_STORE_MLFLOW_URI", empty)
        command(folder, "init", str(folder))
        lost.hear(said(folder, "status", "--repair", code=1)[1])


def test_postgresql_or_redis_is_lost(
    folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = make_url(postgres_url)
    redis = make_url(os.environ.get("UPDATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/0"))
    plain = where.set(drivername="postgresql").render_as_string(hide_password=False)
    before = state(folder)
    words = {"HOST": str(where.host), "PORT": str(where.port or 5432)}
    with Section("PostgreSQL or Redis is lost", **words) as section:
        monkeypatch.setenv("UPDATER_STORE_URL", f"postgresql://postgres@127.0.0.1:{free_port()}/x")
        for release in (["rollback"], ["promote", "1", "--force"]):
            section.hear(said(folder, *release, "--reason", "r", code=1)[1])
        monkeypatch.delenv("UPDATER_STORE_URL")
        assert "accepting connections" in section.run("pg_isready", folder)
        section.run("updater status", folder)
        assert state(folder) == before
        environ = {"REDISCLI_AUTH": str(redis.password)} if redis.password else {}
        words = {"HOST": str(redis.host), "PORT": str(redis.port or 6379)}
        assert section.run("redis-cli", folder, environ=environ, **words) == "PONG\n"
    with psycopg.connect(plain) as connection:
        now = connection.execute("select now() at time zone 'UTC'").fetchone()
    section = Section("Clocks differ")
    assert now is not None
    assert f"{now[0]:%Y-%m-%d %H}" in section.run("psql", folder, environ={"LEDGER": plain})


def test_a_worker_of_another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = command(folder, "step", "ingest", "--period", "south")["update"]
    with Section("A worker of another version", UPDATE=update, NAME="rehearse") as section:
        monkeypatch.setattr(versions, "HERE", "9.9.0")
        _, errors = answered(folder, "step", "rehearse", "--update", update, code=2)
        section.hear(errors)
        assert Workspace.open(folder).ledger.step(update, "rehearse") is None
        section.run("updater --version", folder, environ={"LANG": "C.UTF-8"})
        section.run("updater step", folder)
        assert Workspace.open(folder).ledger.step(update, "rehearse") is not None


def test_torch_is_not_installed(folder: Path, tmp_path: Path) -> None:
    """As on the service's workers without a GPU: what can't be done there is refused before it
    begins, and what Airflow gives to them is done."""
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    environ = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}

    def here(*arguments: str, code: int = 2) -> str:
        words = shlex.join(["updater", "--json", *arguments])
        return shell(words, folder, code=code, environ=environ)

    ledger = Workspace.open(folder).ledger
    before = state(folder), ledger.dataset_versions(), ledger.model_versions()
    model = str(folder / "checkpoints" / ledger.model_version("2").digest)
    with Section("Torch is not installed") as section:
        section.hear(here("update", "south"))
    for refused in (
        ("scratch", "--periods", "south"),
        ("adopt", model, "--periods", "south"),
        ("compress", "2", "--quantize", "int8"),
        ("evaluate", "2"),
        ("doctor", "--model", model),
    ):
        assert f"updater: {refused[0]} can't run here: torch is not installed" in here(*refused)
    assert (state(folder), ledger.dataset_versions(), ledger.model_versions()) == before
    opened = here("step", "ingest", "--period", "south", code=0)
    update = json.loads(opened.splitlines()[-1])["update"]
    here("step", "rehearse", "--update", update, code=0)
    said = here("step", "importance", "--update", update)
    assert f"step importance of {update} can't run here: torch is not installed" in said
    assert ledger.step(update, "importance") is None
    command(folder, "update", "south")
    here("update", "south", code=0)  # what is finished needs no torch
