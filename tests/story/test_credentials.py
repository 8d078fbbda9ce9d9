"""MLflow with logins: wrong passwords and tokens that expire are said, and promote nothing twice.

A real server with MLflow's basic-auth app, whose users sign in by password; a token that it does
not know is refused as an expired one is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import answered, command, said
from mlflow_server import mlflow_with_logins

from store.aliases import Aliases
from store.errors import DeniedError
from store.registry import Registry

pytestmark = pytest.mark.slow

PASSWORD = "a-password-of-this-test"
NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
REFUSED = "refused the sign-in (401). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_with_logins(folder, PASSWORD) as url:
        yield url


@pytest.fixture
def sign_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A function: from now on we sign in by these."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where MLflow keeps credentials, too

    def set_(username: str = "", password: str = "", token: str = "") -> None:
        for name, value in zip(NAMES, (username, password, token), strict=True):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)

    return set_


def promotions(folder: Path, version: str) -> list[dict[str, Any]]:
    events = command(folder, "history")["events"]
    return [e for e in events if (e["kind"], e["version"]) == ("promoted", version)]


@pytest.mark.parametrize("who", [("admin", "wrong", ""), ("", "", "expired"), ("", "", "")])
def test_who_is_not_let_in_is_told_so_by_both_ways_in(
    server: str, sign_in: Callable[..., None], who: tuple[str, str, str]
) -> None:
    sign_in(*who)
    with pytest.raises(
        DeniedError, match=r"refused the sign-in \(401\)\. Set MLFLOW_TRACKING"
    ) as e:
        Registry(server, "", "story").create()
    assert who[1] not in str(e.value) or not who[1]
    with pytest.raises(DeniedError, match=r"refused the sign-in \(401\)\. Set MLFLOW_TRACKING"):
        Aliases(server, "story").get("deployed")


def test_a_token_that_expires_before_release_promotes_once(
    server: str, sign_in: Callable[..., None], lay_out: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "ws")
    with (folder / "updater.toml").open("a") as file:
        file.write(f'[store]\nmlflow_uri = "{server}"\n')
    sign_in("admin", PASSWORD)
    command(folder, "init", str(folder))
    command(folder, "scratch", "--periods", "north", "--deploy")

    sign_in("admin", "wrong")  # said before any work, and nothing is opened
    _, errors = said(folder, "update", "east", code=1)
    assert REFUSED in errors
    sign_in("admin", PASSWORD)
    assert command(folder, "status")["unfinished"] == []

    opened = command(folder, "step", "ingest", "--period", "east")["update"]
    for name in ("rehearse", "importance", "train", "evaluate", "gate"):
        command(folder, "step", name, "--update", opened)

    sign_in(token="expired")
    for _ in range(2):
        _, errors = said(folder, "step", "release", "--update", opened, code=1)
        assert REFUSED in errors
        assert len(promotions(folder, "2")) == 1
    status, errors = answered(folder, "status")
    assert (status["deployed"], status["consistent"]) == ("2", False)
    assert REFUSED in errors

    sign_in("admin", PASSWORD)
    answer = command(folder, "step", "release", "--update", opened)
    assert answer["promoted"] is True
    assert len(promotions(folder, "2")) == 1
    status = command(folder, "status")
    assert (status["deployed"], status["consistent"], status["unfinished"]) == ("2", True, [])

    sign_in(token="expired")  # on-call rolls back: done in the ledger, and said that MLflow lags
    _, errors = said(folder, "rollback", "--reason", "wrong answers", code=1)
    assert REFUSED in errors
    assert command(folder, "status")["deployed"] == "1"
    _, errors = said(folder, "rollback", "--reason", "wrong answers", code=1)
    assert "go further back with `updater rollback --to VERSION`" in errors
    sign_in("admin", PASSWORD)
    command(folder, "status", "--repair")
    assert Aliases(server, "story").get("deployed") == "1"
    assert [e["kind"] for e in command(folder, "history")["events"]].count("rolled_back") == 1
