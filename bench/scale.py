"""How long on-call waits after years: commands on a ledger with 1,000 periods and 10^6 events.

    python bench/scale.py            # some minutes; needs PostgreSQL
    python bench/scale.py --write    # and writes bench/results/scale.md
    python bench/scale.py --sqlite   # the same on SQLite
    python bench/scale.py --periods 4 --versions 20 --events 200 --report-periods 4   # a toy

PostgreSQL is where the tests have it: UPDATER_TEST_POSTGRES_URL. The rows are generated
(`scale_rows.py`) into a database of its own, which is dropped in the end; MLflow is an own server
on SQLite, with every version registered. Each row is the wall clock of a whole process, the
`updater` command, the median of several; its seconds of CPU, to tell where the machine had other
work; and its largest memory. Target: `status` and `rollback` under 3 s of wall clock; the bench
fails where one is missed.
"""

import argparse
import contextlib
import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from mlflow_server import mlflow_server
from scale_rows import Life, into_mlflow, into_postgres, into_sqlite

from updater.workspace import Workspace

RESULTS = Path(__file__).parent / "results" / "scale.md"
POSTGRES = os.environ.get(
    "UPDATER_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test"
)
UPDATER = str(Path(sys.executable).parent / "updater")
TARGET_SECONDS = 3.0
HEAD = ("| command | median | slowest | CPU | memory | target |", "|---|--:|--:|--:|--:|---|")
NAME = "scale"
CONFIG = f"""
[workspace]
name = "{NAME}"
[source]
uri = "rows.jsonl"
[source.fields]
id = "{{id}}"
prompt = "{{text}}"
completion = "{{answer}}"
date = "{{date}}"
[periods]
every = "day"
"""
# Command -> times that it runs, and whether it has the target.
RELEASES = (
    ("status", 5, True),
    ("status --json", 5, True),
    ("rollback --dry-run --reason bench", 5, True),
    ("rollback --reason bench", 5, True),
)
READ = (
    ("due", 3, False),
    ("show {version}", 3, False),
    ("history --last 20", 3, False),
    ("history --json", 1, False),
    ("periods --json", 3, False),
    ("scores --json", 1, False),
)
REPORT = (("report {version} -o report.html", 1, False),)


@contextlib.contextmanager
def database() -> Iterator[str]:
    """The URL of a new database on the server, dropped in the end."""
    server = make_url(POSTGRES)
    plain = server.set(drivername="postgresql").render_as_string(hide_password=False)
    name = f"updater_scale_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(plain, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield server.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def workspace(periods: int, versions: int, events: int, *, sqlite: bool) -> Iterator[Path]:
    """A workspace with that much behind it; UPDATER_STORE_URL and _MLFLOW_URI name its stores."""
    with contextlib.ExitStack() as held:
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="updater-scale-")))
        folder = root / NAME
        folder.mkdir()
        (folder / "updater.toml").write_text(CONFIG)
        url = f"sqlite:///{folder / 'store.db'}" if sqlite else held.enter_context(database())
        os.environ["UPDATER_STORE_URL"] = url
        os.environ["UPDATER_STORE_MLFLOW_URI"] = f"sqlite:///{root / 'mlflow.db'}"
        call(folder, "init", str(folder))
        opened = Workspace.open(folder)
        weights = folder / "weights"
        weights.mkdir()
        (weights / "model.safetensors").write_bytes(bytes(1000))
        digest = opened.checkpoints.add(weights)
        settings = dataclasses.asdict(opened.settings)
        life = Life(periods, versions, events, digest, settings)
        started = time.monotonic()
        if sqlite:
            into_sqlite(life, folder / "store.db")
        else:
            into_postgres(life, make_url(url).set(drivername="postgresql").render_as_string(False))
        into_mlflow(life, root / "mlflow.db", NAME)
        print(f"{time.monotonic() - started:.0f} s to generate the rows", file=sys.stderr)
        os.environ["UPDATER_STORE_MLFLOW_URI"] = held.enter_context(mlflow_server(root))
        yield folder


def call(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and MiB of one command.

    Raises:
        SystemExit: it failed.
    """
    command = [UPDATER, "--workspace", str(folder), "--quiet", *arguments]
    with (folder / "said").open("wb") as said:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, cwd=folder)
        assert process.stderr is not None, "it is a pipe"
        try:
            failure = process.stderr.read()
        except BaseException:  # Ctrl-C: nothing goes on behind a database that is dropped
            process.kill()
            raise
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {failure.decode()}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> int:
    """The table; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--target", type=float, default=TARGET_SECONDS, metavar="SECONDS")
    parser.add_argument("--sqlite", action="store_true", help="the ledger is a SQLite file")
    parser.add_argument("--periods", type=int, default=1000, metavar="N")
    parser.add_argument("--versions", type=int, default=5000, metavar="N")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--report-periods", type=int, default=200, metavar="N", help="0: none")
    asked = parser.parse_args()
    lines: list[str] = []
    missed = False
    few = (asked.report_periods, 2 * asked.report_periods, 20 * asked.report_periods)
    for size, commands in (
        ((asked.periods, asked.versions, asked.events), (*RELEASES, *READ)),
        *([(few, REPORT)] if asked.report_periods else []),
    ):
        title = "{:,} periods, {:,} versions, {:,} events".format(*size)
        lines += ["", title, "", *HEAD]
        print("\n".join(lines[-4:]))
        with workspace(*size, sqlite=asked.sqlite) as folder:
            for words, times, has_target in commands:
                arguments = words.format(version=size[1]).split()
                most = min(times, size[0] - 1)  # each rollback goes a period further back
                found = [call(folder, *arguments) for _ in range(most)]
                target = asked.target if has_target else None
                lines.append(row(words, found, target))
                missed |= has_target and statistics.median(f[0] for f in found) > asked.target
                print(lines[-1], flush=True)
    if asked.write:
        write(lines, asked.sqlite)
    return int(missed)


def row(words: str, found: list[tuple[float, float, float]], target: float | None) -> str:
    """Of the table."""
    seconds, cpu, memory = zip(*found, strict=True)
    cells = [f"`{words.format(version='V')}`", f"{statistics.median(seconds):.2f} s"]
    cells += [f"{max(seconds):.2f} s", f"{statistics.median(cpu):.2f} s"]
    cells += [f"{max(memory):.0f} MiB", "" if target is None else f"{target:g} s"]
    return f"| {' | '.join(cells)} |"


def write(lines: list[str], sqlite: bool) -> None:
    """The page of results."""
    kind = "SQLite" if sqlite else "PostgreSQL"
    machine = f"{kind}, Python {platform.python_version()}, {os.cpu_count()} cores"
    head = f"`python bench/scale.py --write`, {machine}, {time.strftime('%Y-%m-%d')}."
    about = __doc__.split("\n\n", 2)[2].replace("\n", " ").strip()
    RESULTS.write_text("\n".join(["# A long life of a model", "", head, "", about, *lines, ""]))


if __name__ == "__main__":
    sys.exit(main())
