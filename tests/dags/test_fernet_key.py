"""A new AIRFLOW_FERNET_KEY, as docs/security.md says: its command, on Airflow's own database."""

import re
import shlex
import sqlite3
from pathlib import Path

import pytest
from compose_file import load
from cryptography.fernet import Fernet, InvalidToken
from env_check import faults
from pages import DOCS
from secrets_file import FERNET, asked, made

SECRET = "told to Airflow alone"
CONNECTION = f"smtp://ann:{SECRET.replace(' ', '%20')}@mail.example"


def documented() -> tuple[str, list[str]]:
    """What the page writes into .env, and what it runs in the scheduler's container then."""
    row = next(
        line
        for line in (DOCS / "security.md").read_text("utf-8").splitlines()
        if line.startswith(f"| `{FERNET}`")
    )
    value = re.search(r"`(NEW\S+)` in `\.env`, `docker compose up --detach`", row)
    command = re.search(r"`docker compose exec airflow-scheduler airflow ([^`]+)`, then `NEW`", row)
    assert value is not None
    assert command is not None
    return value[1], shlex.split(command[1])


def kept(home: Path) -> list[str]:
    """What Airflow's database has of the connection and of the variable, enciphered."""
    with sqlite3.connect(home / "airflow.db") as database:
        rows = database.execute(
            "SELECT password FROM connection WHERE conn_id = 'mail' "
            "UNION ALL SELECT val FROM variable WHERE key = 'token'"
        ).fetchall()
    database.close()
    return [str(row[0]) for row in rows]


def test_a_new_key_reads_what_was_enciphered_by_the_old_one_and_the_old_one_does_not(airflow):
    old, new = made(FERNET), made(FERNET)
    both, command = documented()
    both = both.replace("NEW", new).replace("OLD", old)
    given = {name: made(name) for name in asked()} | {FERNET: both}
    assert list(faults(given)) == []
    scheduler = load(given)["services"]["airflow-scheduler"]["environment"]
    assert scheduler["AIRFLOW__CORE__FERNET_KEY"] == both

    home = Path(airflow.environ["AIRFLOW_HOME"])
    by_old = {"AIRFLOW__CORE__FERNET_KEY": old}
    airflow.run("connections", "add", "mail", "--conn-uri", CONNECTION, **by_old)
    airflow.run("variables", "set", "token", SECRET, **by_old)
    before = kept(home)
    assert [Fernet(old).decrypt(text).decode() for text in before] == [SECRET] * 2

    said = airflow.run(*command, AIRFLOW__CORE__FERNET_KEY=both)
    assert "Traceback" not in said, said
    after = kept(home)
    assert [Fernet(new).decrypt(text).decode() for text in after] == [SECRET] * 2
    for text in after:
        with pytest.raises(InvalidToken):
            Fernet(old).decrypt(text)
