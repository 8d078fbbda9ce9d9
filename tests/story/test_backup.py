"""docs/backup.md: its scripts copy a service, everything is wiped, its scripts bring it back."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from commands import command
from engine import Engine
from pages import run_script, script
from stack import ROOT, Stack, missing_programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DATABASES = ("airflow", "ledger", "mlflow", "mlflow_logins")
BUCKETS = ("datasets", "checkpoints", "artifacts")
SERVICES = ("postgres", "redis", "objectstore", "mlflow", "setup")
SETTLE_SECONDS = 300
Ask = Callable[..., dict[str, Any]]


def need(missing: list[str]) -> None:
    """Skip for want of these programs; under CI=true that is a failure."""
    if missing:
        said = f"needs {', '.join(missing)}"
        pytest.fail(said) if os.environ.get("CI") == "true" else pytest.skip(said)


def told(ask: Ask) -> dict[str, Any]:
    """What the read commands say of the workspace."""
    said = {name: ask(name) for name in ("status", "history", "scores")}
    return said | {"show": ask("show", said["status"]["deployed"])}


def digests(folder: Path) -> dict[str, str]:
    """Of the files of a checkpoint, by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def copies(folder: Path) -> list[Path]:
    """Those that lie there, the oldest first: each is named by its time."""
    found = sorted(folder.iterdir())
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}", one.name) for one in found)
    return found


def shared(copy: Path, other: Path) -> set[Path]:
    """The checkpoints' files of a copy that are the very same files in the other."""
    found = [path for path in (copy / "objects" / "checkpoints").rglob("*") if path.is_file()]
    twins = {path.relative_to(copy): other / path.relative_to(copy) for path in found}
    return {name for name, twin in twins.items() if twin.exists() and twin.samefile(copy / name)}


# One machine


@pytest.fixture
def alone(folder: Path) -> Path:
    """A workspace on this machine alone."""
    need([name for name in ("sqlite3", "flock", "tar") if shutil.which(name) is None])
    command(folder, "init", str(folder))
    return folder


def process(*arguments: str) -> dict[str, Any]:
    """The JSON answer of `updater` in a process of its own: MLflow keeps a database open that it
    has used, also when another one has taken the file's place."""
    program = Path(sys.executable).with_name("updater")
    done = subprocess.run(
        [program, "--json", "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_one_machine_is_copied_wiped_and_restored(alone: Path, tmp_path: Path) -> None:
    command(alone, "scratch", "--periods", "north", "--deploy")
    assert command(alone, "update", "east")["promoted"]
    ask = partial(process, "--workspace", str(alone))
    before = told(ask)
    ask("export", "2", str(tmp_path / "first"))
    environ = dict(os.environ)
    typed = script("backup.md", "Back up", WORKSPACE=str(alone), COPIES=str(tmp_path / "copies"))
    run_script(typed, ROOT, environ)
    (copy,) = copies(tmp_path / "copies")
    ask("rollback", "--reason", "after the copy")
    shutil.rmtree(alone)
    restore = script("backup.md", "Restore", WORKSPACE=str(alone), BACKUP=str(copy))
    run_script(restore, ROOT, environ)
    assert told(ask) == before
    assert before["status"]["deployed"] == "2"
    assert before["status"]["consistent"]
    ask("export", "2", str(tmp_path / "again"))
    assert digests(tmp_path / "again") == digests(tmp_path / "first")
    learnt = ask("update", "south")
    assert learnt["candidate"] == "3"
    assert set(learnt["scores"]) == {"north", "east", "south"}
    run_script(restore, ROOT, environ)  # over what is there: that stays beside it
    assert told(ask) == before
    (kept,) = alone.parent.glob("ws.before-*")
    assert process("--workspace", str(kept), "scores")["versions"] == ["1", "2", "3"]


def test_a_copy_waits_for_whoever_is_at_work_and_gives_up_in_time(
    alone: Path, tmp_path: Path
) -> None:
    from updater.workspace import Workspace

    place = tmp_path / "copies"
    typed = script("backup.md", "Back up", WORKSPACE=str(alone), COPIES=str(place))
    typed = typed.replace("--timeout 3600", "--timeout 1")
    with Workspace.open(alone).lock(), pytest.raises(AssertionError):
        run_script(typed, ROOT, dict(os.environ))
    assert not place.exists()
    run_script(typed, ROOT, dict(os.environ))
    (made,) = copies(place)
    with sqlite3.connect(made / "store.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_no_copy_is_written_over_and_the_last_whole_ones_are_kept(
    alone: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copies"
    given = {"WORKSPACE": str(alone), "COPIES": str(place), "KEEP": "2"}
    typed = script("backup.md", "Back up", **given)
    noon = typed.replace("$(date +%FT%H%M%S)", "2026-05-01T120000")
    assert noon != typed
    run_script(noon, ROOT, dict(os.environ))
    first = digests(place / "2026-05-01T120000")
    command(alone, "scratch", "--periods", "north", "--deploy")
    with pytest.raises(AssertionError, match="File exists"):
        run_script(noon, ROOT, dict(os.environ))
    assert digests(place / "2026-05-01T120000") == first
    (place / "2026-05-02T120000").mkdir()  # cut short: none that is whole goes for it
    (place / "of a person").mkdir()
    (place / "of a person" / "SHA256SUMS").touch()
    for hour in ("03", "15"):
        run_script(noon.replace("01T12", f"03T{hour}"), ROOT, dict(os.environ))
    kept = ["2026-05-02T120000", "2026-05-03T030000", "2026-05-03T150000", "of a person"]
    assert sorted(path.name for path in place.iterdir()) == kept


# Servers


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]
) -> Iterator[Stack]:
    """The stores of docker-compose.yml, with a workspace that has learnt two periods."""
    need(missing_programs("pg_dump", "pg_restore", "flock", "tar"))
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        stack.up(*SERVICES)
        folder = lay_out(stack.folder / "workspaces" / "model")
        quick = (folder / "updater.toml").read_text().replace("epochs = 6", "epochs = 1")
        quick = quick.replace("epochs = 10", "epochs = 2") + "[evaluation]\nverify_examples = 8\n"
        (folder / "updater.toml").write_text(quick)
        stack.updater("init", str(folder))
        stack.updater("scratch", "--periods", "north", "--deploy", on="gpu-worker")
        stack.updater("update", "east", on="gpu-worker")
        stack.updater("promote", "2", "--reason", "a test", "--force")
        stack.execute(
            *("airflow-scheduler", "airflow", "connections", "add", "mail", "--conn-type", "smtp"),
            *("--conn-host", "mail.example", "--conn-password", "told to Airflow alone"),
        )
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def store(stack: Stack) -> Any:
    """S3, as the services see it."""
    environ = stack.environment("updater")
    return boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=environ["AWS_DEFAULT_REGION"],
    )


def settle(stack: Stack) -> None:
    """What docs/backup.md says to do first. MLflow's first answer after its start takes longer than
    `updater` waits where the machine is busy."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            assert stack.updater("status", "--repair")["consistent"]
            return
        except AssertionError:
            if time.monotonic() > end:
                raise


def secret(stack: Stack) -> str:
    """The password of Airflow's connection, which its database has encrypted."""
    said = stack.execute("airflow-scheduler", "airflow", "connections", "get", "mail", "-o", "json")
    return str(json.loads(said)[0]["password"])


def report(stack: Stack, run: str) -> str:
    """What MLflow gives for the report of a run."""
    return stack.execute(
        *("gpu-worker", "python", "-c"),
        "import mlflow, os; mlflow.set_tracking_uri(os.environ['UPDATER_STORE_MLFLOW_URI']);"
        f"print(mlflow.artifacts.load_text('runs:/{run}/report.html'))",
    )


def test_servers_are_copied_wiped_and_restored(stack: Stack, store: Any, tmp_path: Path) -> None:
    workspace = stack.folder / "workspaces" / "model"
    before = told(stack.updater)
    run = before["show"]["mlflow_run"]
    page = report(stack, run)
    stack.updater("export", "2", str(tmp_path / "first"))
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PG")},
        **{k: v for k, v in stack.environment("updater").items() if k.startswith("AWS_")},
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.ports[5432]),
        "PGUSER": "postgres",
        "PGPASSWORD": stack.environ["POSTGRES_PASSWORD"],
        "NO_PROXY": "*",
    }

    def typed(heading: str, **values: str) -> str:
        text = script("backup.md", heading, WORKSPACE=str(workspace), **values)
        return text.replace(".venv/bin/python", sys.executable)

    said = run_script(typed("Back up the servers", COPIES=str(tmp_path / "copies")), ROOT, environ)
    assert all(f"{bucket}: " in said for bucket in BUCKETS)
    (copy,) = copies(tmp_path / "copies")
    restore = typed("Restore the servers", BACKUP=str(copy))

    with pytest.raises(AssertionError, match="being accessed by other users"):
        run_script(restore, ROOT, environ)
    stack.halt("mlflow")
    address = f"host=127.0.0.1 port={stack.ports[5432]} user=postgres dbname=postgres"
    with psycopg.connect(address, password=environ["PGPASSWORD"], autocommit=True) as server:
        for name in DATABASES:
            server.execute(f"DROP DATABASE {name}")
    for bucket in BUCKETS:
        for found in store.list_objects_v2(Bucket=bucket)["Contents"]:
            store.delete_object(Bucket=bucket, Key=found["Key"])
    shutil.rmtree(workspace)
    run_script(restore, ROOT, environ)
    stack.up("mlflow")
    settle(stack)
    assert told(stack.updater) == before
    assert report(stack, run) == page
    assert secret(stack) == "told to Airflow alone"
    stack.updater("export", "2", str(tmp_path / "again"))
    assert digests(tmp_path / "again") == digests(tmp_path / "first")


def test_compose_is_copied_during_an_update_wiped_and_restored(
    stack: Stack, tmp_path: Path
) -> None:
    """The update begins and ends between the copy of the ledger and that of all else."""
    engine = Engine(stack, SERVICES)
    secrets = "".join(f"{key}={value}\n" for key, value in stack.environ.items())
    (tmp_path / ".env").write_text(secrets)
    before = told(stack.updater)
    stack.updater("export", "2", str(tmp_path / "first"))
    typed = script("backup.md", "Back up the service", COPIES=str(tmp_path / "copies"))
    engine.script(typed, tmp_path)
    (earlier,) = copies(tmp_path / "copies")
    meanwhile = (
        'if [ "$name" = ledger ]; then',
        "docker compose exec -T gpu-worker updater update south",
        "docker compose run --rm --no-deps updater promote 3 --reason test --force",
        "fi",
    )
    update = "\n".join(meanwhile)
    engine.script(typed.replace("\ndone\n", f"\n{update}\ndone\n", 1), tmp_path)
    copy = copies(tmp_path / "copies")[-1]
    assert (copy / "env").stat().st_mode & 0o077 == 0
    assert shared(copy, earlier) == shared(earlier, earlier), "each object lies there once"
    assert stack.updater("status")["deployed"] == "3"

    (tmp_path / ".env").unlink()
    engine.script(script("backup.md", "Restore the service", BACKUP=str(copy)), tmp_path)
    assert (tmp_path / ".env").read_text() == secrets
    settle(stack)
    assert told(stack.updater) == before
    assert secret(stack) == "told to Airflow alone"
    stack.updater("export", "2", str(tmp_path / "again"))
    assert digests(tmp_path / "again") == digests(tmp_path / "first")
    again = stack.updater("update", "south", on="gpu-worker")
    assert again["candidate"] == "3"
    stack.updater("promote", "3", "--reason", "a test", "--force")
    status = stack.updater("status")
    assert (status["deployed"], status["consistent"]) == ("3", True)


def test_the_service_is_migrated_and_keeps_all(stack: Stack, tmp_path: Path) -> None:
    """docs/upgrade.md, where nothing is a version behind: its script may be run at any time."""
    before = told(stack.updater)
    Engine(stack, SERVICES).script(script("upgrade.md", "Migrate the service"), tmp_path)
    settle(stack)
    assert told(stack.updater) == before
    assert secret(stack) == "told to Airflow alone"
