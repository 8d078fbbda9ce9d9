"""docs/upgrade.md: its scripts run on a ledger and an MLflow that are a version behind, back again,
and from one machine to servers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from commands import command
from mlflow_server import mlflow_server
from pages import run_script, script
from stack import ROOT

from store.ledger import open_ledger
from store.ledger.schema import HEAD

pytestmark = pytest.mark.slow

PROGRAMS = Path(sys.executable).parent
NEXT = f"{int(HEAD) + 1:04}"
NEXT_MIGRATION = f'''"""What a later release may add."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"


def upgrade() -> None:
    op.create_table("notes", sa.Column("text", sa.Text()))
    op.add_column("events", sa.Column("seen", sa.Text()))
'''


def updater(
    source: Path, *arguments: str, code: int = 0, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """A command of the updater whose source lies there."""
    done = subprocess.run(
        [str(PROGRAMS / "updater"), "--quiet", *arguments],
        env={**os.environ, "PYTHONPATH": str(source), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def typed(page: str, heading: str, **values: str) -> str:
    """A script of the docs with this environment's programs."""
    return script(page, heading, **values).replace(".venv/bin/", f"{PROGRAMS}/")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The source of a later release, whose ledger has one more migration."""
    source = tmp_path / "later"
    for name in ("updater", "store", "rehearsal", "regularizers"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    schema = source / "store" / "ledger" / "schema.py"
    text = schema.read_text()
    ours = f'HEAD = "{HEAD}"'
    assert ours in text
    schema.write_text(text.replace(ours, f'HEAD = "{NEXT}"'))
    migration = source / "store" / "ledger" / "migrations" / "versions" / f"{NEXT}_notes.py"
    migration.write_text(NEXT_MIGRATION)
    return source


def test_one_machine_is_migrated_and_goes_back_by_its_copy(
    folder: Path, release: Path, tmp_path: Path
) -> None:
    command(folder, "init", str(folder))
    open_ledger(f"sqlite:///{folder / 'store.db'}").append("noted", actor="a", reason="of before")
    before = json.loads(updater(ROOT, "--workspace", str(folder), "--json", "history").stdout)
    copy = {"WORKSPACE": str(folder), "BACKUP": str(tmp_path / "copy")}
    run_script(typed("backup.md", "Back up", **copy), ROOT, dict(os.environ))

    asked = ("--workspace", str(folder), "status")
    assert f"needs {NEXT}. Run `updater init`" in updater(release, *asked, code=2).stderr
    later = {**os.environ, "PYTHONPATH": str(release)}
    said = run_script(
        typed("upgrade.md", "Migrate a workspace", WORKSPACE=str(folder)), ROOT, later
    )
    assert "deployed" in said
    kept = json.loads(updater(release, "--workspace", str(folder), "--json", "history").stdout)
    assert kept == before

    for arguments in (asked, ("init", str(folder))):
        refused = updater(ROOT, *arguments, code=2).stderr
        assert f"{NEXT}, newer than the {HEAD} that this updater knows" in refused
    run_script(typed("backup.md", "Restore", **copy), ROOT, dict(os.environ))
    again = json.loads(updater(ROOT, "--workspace", str(folder), "--json", "history").stdout)
    assert again == before


@pytest.mark.filterwarnings("ignore:The .*noload")  # MLflow's own tables
def test_an_mlflow_of_before_is_migrated(folder: Path) -> None:
    url = f"sqlite:///{folder / 'mlflow.db'}"
    before, head = older(url)
    assert revision(url) == before
    first, rest = script("upgrade.md", "Migrate a workspace", WORKSPACE=str(folder)).split(
        ".venv/bin/updater", 1
    )
    run_script(first.replace(".venv/bin/", f"{PROGRAMS}/"), ROOT, dict(os.environ))
    assert revision(url) == head
    whole = first + ".venv/bin/updater" + rest
    run_script(whole.replace(".venv/bin/", f"{PROGRAMS}/"), ROOT, dict(os.environ))
    status = json.loads(updater(ROOT, "--workspace", str(folder), "--json", "status").stdout)
    assert status["consistent"]


def revision(url: str) -> str:
    """At which MLflow's tables are."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
    engine.dispose()
    return str(found)


def older(url: str) -> tuple[str, str]:
    """An MLflow database at the last revision but one; that one and the last."""
    from alembic import command as alembic
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    engine = sa.create_engine(url)
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(url)
    head = ScriptDirectory.from_config(config).get_revision("head")
    assert head is not None
    assert isinstance(head.down_revision, str)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.upgrade(config, head.down_revision)
    engine.dispose()
    return head.down_revision, head.revision


@pytest.mark.timeout(1800)
def test_a_model_moves_from_one_machine_to_servers(
    lay_out: Callable[[Path], Path], postgres_url: str, tmp_path: Path
) -> None:
    old, new, model = lay_out(tmp_path / "old"), tmp_path / "new", tmp_path / "model"
    quick = (old / "updater.toml").read_text().replace("epochs = 6", "epochs = 1")
    quick = quick.replace("epochs = 10", "epochs = 2") + "[evaluation]\nverify_examples = 8\n"
    (old / "updater.toml").write_text(quick)
    command(old, "init", str(old))
    command(old, "scratch", "--periods", "north", "--deploy")
    command(old, "update", "east")
    command(old, "promote", "2", "--reason", "a test", "--force")
    scores = command(old, "scores")
    new.mkdir()
    for name in ("rows.jsonl", "tiny.json"):
        shutil.copy(old / name, new)
    served = tmp_path / "served"
    served.mkdir()
    environ = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    values = {"OLD": str(old), "MODEL": str(model)}
    run_script(typed("upgrade.md", "Take the model along", VERSION="2", **values), ROOT, environ)
    with mlflow_server(served) as address:
        servers = {
            "UPDATER_STORE_URL": postgres_url + "?options=-csearch_path%3D%22{workspace}%22",
            "UPDATER_STORE_MLFLOW_URI": address,
            "UPDATER_STORE_CHECKPOINTS": f"file://{tmp_path}/store/{{workspace}}",
            "UPDATER_STORE_DVC_REMOTE": f"{tmp_path}/remote",
        }
        text = typed("upgrade.md", "Adopt it there", NEW=str(new), PERIODS="north..east", **values)
        run_script(text, ROOT, environ | servers)

        def asked(*arguments: str) -> dict[str, Any]:
            said = updater(ROOT, "--workspace", str(new), "--json", *arguments, **servers).stdout
            answer: dict[str, Any] = json.loads(said.splitlines()[-1])
            return answer

        status = asked("status")
        assert (status["deployed"], status["learnt"]) == ("1", ["north", "east"])
        assert status["consistent"]
        moved = asked("scores")
        assert moved["periods"] == scores["periods"]
        assert moved["accuracy"] == [scores["accuracy"][scores["versions"].index("2")]]
        learnt = asked("update", "south")
        assert learnt["candidate"] == "2"
        assert set(learnt["scores"]) == {"north", "east", "south"}
    assert not (new / "store.db").exists()
    assert not (new / "mlflow.db").exists()
    assert command(old, "scores") == scores
