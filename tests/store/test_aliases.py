"""Aliases: what is written here MLflow reads, and the reverse; embedded and on a server."""

import base64
import http.server
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from store import retry
from store.aliases import ALIASES, MLFLOW_WORKSPACE, MODELS, VERSIONS, Aliases
from store.errors import NotFoundError, StoreError, UnreachableError

ROOT = Path(__file__).parents[2]
_names = (f"tickets-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An embedded MLflow; one for the module, its tables take seconds to make."""
    url = f"sqlite:///{tmp_path_factory.mktemp('aliases') / 'mlflow.db'}"
    client_of(url).search_registered_models()
    return url


def client_of(url: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=url, registry_uri=url)


@pytest.fixture(scope="module")
def server_url(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` on the same tables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", mlflow_url),
        *("--artifacts-destination", str(folder), "--workers", "1", "--port", str(port)),
    ]
    with (folder / "log").open("w") as log:
        quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=quiet, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
                assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Model:
    """A registered model with versions 1 and 2; `theirs` is MLflow's view, `ours` the other."""

    def __init__(self, url: str, mlflow_url: str) -> None:
        self.url, self.name = url, next(_names)
        self.client = client_of(mlflow_url)
        self.client.create_registered_model(self.name)
        for _ in range(2):
            self.client.create_model_version(self.name, source="file:///nowhere")
        self.ours = Aliases(url, self.name)

    def theirs(self, alias: str) -> str | None:
        aliases = self.client.get_registered_model(self.name).aliases
        return str(aliases[alias]) if alias in aliases else None


@pytest.fixture(params=["embedded", "server"])
def model(request: pytest.FixtureRequest, mlflow_url: str) -> Iterator[Model]:
    server = request.getfixturevalue("server_url") if request.param == "server" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Model(server or mlflow_url, mlflow_url)


def test_mlflow_reads_what_is_written(model: Model) -> None:
    assert model.ours.get("deployed") is None
    model.ours.set("deployed", "1")
    assert (model.ours.get("deployed"), model.theirs("deployed")) == ("1", "1")
    model.ours.set("deployed", "2")
    model.ours.set("deployed", "2")
    model.ours.set("candidate", "1")
    assert (model.ours.get("deployed"), model.theirs("deployed")) == ("2", "2")
    assert model.client.get_model_version_by_alias(model.name, "deployed").version in (2, "2")
    model.ours.delete("deployed")
    model.ours.delete("deployed")
    assert (model.ours.get("deployed"), model.theirs("deployed")) == (None, None)
    assert model.theirs("candidate") == "1"


def test_what_mlflow_writes_is_read(model: Model) -> None:
    model.client.set_registered_model_alias(model.name, "deployed", "2")
    assert model.ours.get("deployed") == "2"
    model.client.set_registered_model_alias(model.name, "deployed", "1")
    assert model.ours.get("deployed") == "1"
    model.client.delete_registered_model_alias(model.name, "deployed")
    assert model.ours.get("deployed") is None


@pytest.mark.parametrize("version", ["3", "two", "", "-1", "1.0"])
def test_an_alias_never_points_to_what_isnt_there(model: Model, version: str) -> None:
    model.ours.set("deployed", "1")
    with pytest.raises(NotFoundError, match=f"no version {version} of {model.name}"):
        model.ours.set("deployed", version)
    assert model.theirs("deployed") == "1"


def test_a_deleted_version_counts_as_gone(model: Model) -> None:
    model.ours.set("deployed", "1")
    model.client.delete_model_version(model.name, "1")
    assert model.ours.get("deployed") is None
    with pytest.raises(NotFoundError):
        model.ours.set("deployed", "1")


def test_a_model_that_nobody_registered_has_no_aliases(model: Model) -> None:
    nobody = Aliases(model.url, "nobody")
    assert nobody.get("deployed") is None
    nobody.delete("deployed")
    with pytest.raises(NotFoundError, match="no version 1 of nobody"):
        nobody.set("deployed", "1")


@pytest.mark.parametrize("alias", ["", "latest", "LATEST", "v2", "V10", "a b", "x" * 256, "a/b"])
def test_names_that_mlflow_refuses_are_refused_alike(alias: str, mlflow_url: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import (
        _validate_model_alias_name,
        _validate_model_alias_name_reserved,
    )

    with pytest.raises(ValueError, match="alias: "):
        Aliases(mlflow_url, "m").set(alias, "1")
    with pytest.raises(MlflowException):
        raise_if_refused(alias, _validate_model_alias_name, _validate_model_alias_name_reserved)


def raise_if_refused(alias: str, *checks: Callable[[str], None]) -> None:
    for check in checks:
        check(alias)


def test_no_file_is_made_where_there_is_no_mlflow_yet(tmp_path: Path) -> None:
    aliases = Aliases(f"sqlite:///{tmp_path / 'mlflow.db'}", "m")
    assert aliases.get("deployed") is None
    aliases.delete("deployed")
    with pytest.raises(NotFoundError):
        aliases.set("deployed", "1")
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_mlflows_tables_has_no_aliases(tmp_path: Path) -> None:
    sa.create_engine(f"sqlite:///{tmp_path / 'mlflow.db'}").connect().close()
    (tmp_path / "mlflow.db").touch()
    aliases = Aliases(f"sqlite:///{tmp_path / 'mlflow.db'}", "m")
    assert aliases.get("deployed") is None
    aliases.delete("deployed")
    with pytest.raises(NotFoundError):
        aliases.set("deployed", "1")


def test_the_columns_and_keys_are_mlflows_own() -> None:
    from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
    from mlflow.store.model_registry.dbmodels import models
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    from store import aliases

    assert (MLFLOW_WORKSPACE, aliases.DELETED) == (DEFAULT_WORKSPACE_NAME, STAGE_DELETED_INTERNAL)
    theirs = models.SqlRegisteredModelAlias.__table__
    assert {c.name for c in ALIASES.columns} == {c.name for c in theirs.columns}
    assert {c.name for c in theirs.primary_key} == {"workspace", "name", "alias"}
    for ours, table in ((MODELS, models.SqlRegisteredModel), (VERSIONS, models.SqlModelVersion)):
        assert table.__tablename__ == ours.name
        assert {c.name for c in ours.columns} <= {c.name for c in table.__table__.columns}


@pytest.fixture
def on_postgres(postgres_url: str) -> Aliases:
    """MLflow's own table definitions on PostgreSQL, with model m and its versions 1 to 4."""
    from mlflow.store.model_registry.dbmodels import models

    tables = [models.SqlRegisteredModel, models.SqlModelVersion, models.SqlRegisteredModelAlias]
    engine = sa.create_engine(postgres_url)
    models.Base.metadata.create_all(engine, tables=[t.__table__ for t in tables])
    with engine.begin() as connection:
        connection.execute(sa.insert(models.SqlRegisteredModel).values(name="m"))
        for version in range(1, 5):
            row = {"name": "m", "version": version, "current_stage": "None"}
            connection.execute(sa.insert(models.SqlModelVersion).values(row))
    engine.dispose()
    return Aliases(postgres_url, "m")


def test_the_tables_may_lie_on_postgresql(on_postgres: Aliases) -> None:
    assert on_postgres.get("deployed") is None
    on_postgres.set("deployed", "1")
    on_postgres.set("deployed", "2")
    assert on_postgres.get("deployed") == "2"
    with pytest.raises(NotFoundError, match="no version 5"):
        on_postgres.set("deployed", "5")
    on_postgres.delete("deployed")
    assert on_postgres.get("deployed") is None


def test_many_may_set_one_alias_at_once(on_postgres: Aliases) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: on_postgres.set("deployed", str(1 + n % 4)), range(16)))
    assert on_postgres.get("deployed") in ("1", "2", "3", "4")


class Fake(http.server.BaseHTTPRequestHandler):
    """A server that answers what it is told to, and remembers what it was asked."""

    answers: list[tuple[int, str]]
    asked: list[tuple[str, str, str | None]]
    workspace: str | None = None

    def answer(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))
        type(self).workspace = self.headers.get("X-MLFLOW-WORKSPACE")
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[tuple[type[Fake], str]]:
    handler = type("Told", (Fake,), {"answers": [(200, "{}")], "asked": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    asked: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", asked.append)
    return asked


ONE = json.dumps({"registered_model": {"aliases": [{"alias": "deployed", "version": "7"}]}})


def test_a_server_that_is_busy_is_asked_again(fake, pauses: list[float]) -> None:
    handler, host = fake
    handler.answers = [(503, "starting"), (500, ""), (429, ""), (200, ONE)]
    assert Aliases(f"http://{host}", "m").get("deployed") == "7"
    assert pauses == [0.2, 0.4, 0.8]


def test_a_server_that_stays_busy_or_away_is_named(fake, pauses: list[float]) -> None:
    handler, host = fake
    handler.answers = [(502, "")]
    with pytest.raises(UnreachableError, match=rf"MLflow at http://{host} .*4 attempts.*502"):
        Aliases(f"http://{host}", "m").set("deployed", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="refused"):
            Aliases(f"http://bob:hunter2@127.0.0.1:{closed.getsockname()[1]}", "m").get("deployed")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "", r"refused the sign-in \(401\)\. Set MLFLOW_TRACKING_USERNAME"),
        (403, "", r"refused the sign-in \(403\)"),
        (400, '{"error_code": "BAD", "message": "no such field"}', r"refused \(400\): no such"),
        (200, "<html>a proxy's page</html>", "not as an MLflow server does"),
        (404, "<html>not here</html>", "not as an MLflow server does"),
        (200, "[]", "not as an MLflow server does"),
    ],
)
def test_a_refusal_is_said_at_once(
    fake, pauses: list[float], status: int, body: str, said: str
) -> None:
    handler, host = fake
    handler.answers = [(status, body)]
    with pytest.raises(StoreError, match=said) as error:
        Aliases(f"http://{host}", "m").get("deployed")
    assert not isinstance(error.value, UnreachableError)
    assert pauses == []


@pytest.fixture
def signed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def signed_in(fake, user: str = "") -> str | None:
    handler, host = fake
    Aliases(f"http://{user}{host}", "m").get("deployed")
    return handler.asked[-1][2]


def test_it_signs_in_as_mlflows_client_does(
    fake, signed_out: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert signed_in(fake) is None
    signed_out.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert signed_in(fake) == "Bearer t0ken"
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = kim\nmlflow_tracking_password = 50%\n"
    )
    assert signed_in(fake) == basic("kim:50%")
    signed_out.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    signed_out.setenv("MLFLOW_TRACKING_PASSWORD", "pä:ss")
    assert signed_in(fake) == basic("ann:pä:ss")
    assert signed_in(fake, "bob:p%40ss@") == basic("bob:p@ss")


def test_a_path_and_a_workspace_are_passed_on(fake, signed_out: pytest.MonkeyPatch) -> None:
    handler, host = fake
    Aliases(f"http://{host}/team/", "my model").get("deployed")
    assert handler.asked[-1][1] == "/team/api/2.0/mlflow/registered-models/get?name=my+model"
    signed_out.setenv("MLFLOW_WORKSPACE", "team-a")
    assert Aliases(f"http://{host}", "m").get("deployed") is None
    assert handler.workspace == "team-a"


def test_certificates_are_checked_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    from store.alias_server import _trust

    assert _trust().verify_mode is ssl.CERT_REQUIRED
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert _trust().verify_mode is ssl.CERT_NONE


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from store.aliases import Aliases; "
        "Aliases('sqlite:////nowhere/mlflow.db', 'm').get('deployed'); "
        "print([m for m in ('alembic', 'mlflow', 'dvc', 'torch', 'requests') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
