"""Events: appended in order, and a release only on top of what is deployed, whoever races."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from store.errors import ConflictError, NotFoundError
from store.ledger import Event, Ledger, migrate, open_ledger


def release(ledger: Ledger, version: str, over: str | None, **more: Any) -> Event:
    return ledger.append_release(
        more.pop("kind", "promoted"),
        version,
        expected_deployed=over,
        actor="ann",
        reason="r",
        **more,
    )


@pytest.fixture
def versions(ledger: Ledger, story) -> list[str]:
    story.version("1", None)
    return ["1", *(story.version(str(n), "1").id for n in range(2, 10))]


def test_an_event_keeps_what_was_said(ledger: Ledger) -> None:
    event = ledger.append(
        "verified", "1", actor="ann", reason="same scores", update="u1", payload={"num_examples": 3}
    )
    assert (event.kind, event.version, event.previous) == ("verified", "1", None)
    assert (event.actor, event.reason, event.update) == ("ann", "same scores", "u1")
    assert event.payload == {"num_examples": 3}
    assert event.at.utcoffset() is not None
    assert ledger.events() == [event]


def test_order_is_the_id_and_not_the_clock(ledger_url: str) -> None:
    times = iter(datetime(year, 1, 1, tzinfo=UTC) for year in (2026, 2001, 2030))
    ledger = open_ledger(ledger_url, clock=lambda: next(times))
    for kind in ("a", "b", "a"):
        ledger.append(kind, actor="x", reason="r")
    assert [e.kind for e in ledger.events()] == ["a", "b", "a"]
    ids = [e.id for e in ledger.events()]
    assert ids == sorted(set(ids))
    assert [e.id for e in ledger.events(kind="a")] == [ids[0], ids[2]]


def test_a_release_follows_what_is_deployed(ledger: Ledger, versions: list[str]) -> None:
    assert release(ledger, "1", None).previous is None
    assert release(ledger, "2", "1").previous == "1"
    back = release(ledger, "1", "2", kind="rolled_back")
    assert (back.kind, back.version, back.previous) == ("rolled_back", "1", "2")
    ledger.append("verified", "3", actor="x", reason="no release, so it deploys nothing")
    assert release(ledger, "3", "1").previous == "1"


def test_a_release_over_another_version_is_refused_by_both_names(
    ledger: Ledger, versions: list[str]
) -> None:
    with pytest.raises(ConflictError, match="follow version 1, but nothing is deployed"):
        release(ledger, "2", "1")
    release(ledger, "1", None)
    with pytest.raises(ConflictError, match="follow nothing, but version 1 is deployed"):
        release(ledger, "2", None)
    assert len(ledger.events()) == 1


def test_an_update_is_promoted_once_for_ever(ledger: Ledger, versions: list[str]) -> None:
    release(ledger, "1", None)
    first = release(ledger, "2", "1", update="u2")
    release(ledger, "1", "2", kind="rolled_back")
    assert release(ledger, "2", "1", update="u2") == first
    assert [e.version for e in ledger.events()] == ["1", "2", "1"]


def test_what_is_no_release_and_whom_nobody_knows_is_refused(
    ledger: Ledger, versions: list[str]
) -> None:
    with pytest.raises(ValueError, match="kind: verified; must be one of promoted, rolled_back"):
        release(ledger, "1", None, kind="verified")
    with pytest.raises(ValueError, match="append_release"):
        ledger.append("promoted", "1", actor="x", reason="r")
    with pytest.raises(NotFoundError, match="no version 77"):
        release(ledger, "77", None)
    assert ledger.events() == []


def test_an_update_is_decided_once(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="name it"):
        ledger.append("approved", "1", actor="x", reason="r")
    ledger.append("approved", "1", actor="ann", reason="looked", update="u1")
    ledger.append("rejected", "2", actor="bob", reason="worse", update="u2")
    with pytest.raises(ConflictError, match=r"u1 was approved already, by ann \(looked\)"):
        ledger.append("rejected", "1", actor="bob", reason="no", update="u1")
    assert len(ledger.events()) == 2


@pytest.mark.parametrize("named", ["u2", None])
def test_what_was_promoted_is_turned_down_by_nobody(
    ledger: Ledger, versions: list[str], named: str | None
) -> None:
    """Whoever promoted it came between a reader's look and this."""
    release(ledger, "1", None)
    release(ledger, "2", "1", **({"update": named} if named else {}))
    for kind in ("rejected", "abandoned"):
        with pytest.raises(ConflictError, match=r"u2 was promoted meanwhile, by ann \(r\)"):
            ledger.append(kind, "2", actor="bob", reason="worse", update="u2")
    assert [event.kind for event in ledger.events()] == ["promoted", "promoted"]


@pytest.mark.parametrize("kind", ["rejected", "abandoned"])
def test_what_a_person_turned_down_is_promoted_only_where_that_is_overridden(
    ledger: Ledger, story, kind: str
) -> None:
    story.version("1", None)
    story.version("2", "1", update=story.update("u2", "1").id)
    release(ledger, "1", None)
    ledger.append(kind, "2", actor="bob", reason="worse", update="u2")
    for more in ({"update": "u2"}, {}):
        with pytest.raises(ConflictError, match=rf"u2 was {kind} meanwhile, by bob \(worse\)"):
            release(ledger, "2", "1", **more)
    assert release(ledger, "2", "1", payload={"overridden": ["it"]}).version == "2"


@pytest.mark.parametrize("name", ["events_promoted_once", "events_decided_once"])
def test_the_database_itself_keeps_promotions_and_decisions_single(
    ledger: Ledger, name: str
) -> None:
    """The indexes are the last line: a program that bypasses the methods is refused too."""
    from store.ledger.tables import EventRow

    kind = "promoted" if name == "events_promoted_once" else "rejected"
    who = {"actor": "x", "reason": "r", "version": "1", "update": "u1"}
    fields = {"kind": kind, "at": ledger.now(), "payload": {}, **who}
    with ledger._sessions.write() as session:
        session.add(EventRow(**fields))
    with pytest.raises(RuntimeError, match=r"(?i)unique"), ledger._sessions.write() as session:
        session.add(EventRow(**fields))
    assert len(ledger.events()) == 1


def _promote(url: str, version: str, start: threading.Barrier) -> str:
    ledger = open_ledger(url)
    start.wait(timeout=60)
    try:
        release(ledger, version, "1")
    except ConflictError:
        return "lost"
    return "won"


def test_of_many_threads_one_wins(ledger_url: str, ledger: Ledger, versions: list[str]) -> None:
    release(ledger, "1", None)
    rivals = versions[1:]
    start = threading.Barrier(len(rivals))
    with ThreadPoolExecutor(len(rivals)) as pool:
        results = list(pool.map(lambda v: _promote(ledger_url, v, start), rivals))
    assert sorted(results) == ["lost"] * (len(rivals) - 1) + ["won"]
    assert len(ledger.events(kind="promoted")) == 2


RIVAL = """
import sys
from store.errors import ConflictError
from store.ledger import open_ledger

ledger = open_ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.append_release("promoted", sys.argv[2], expected_deployed="1", actor="a", reason="r")
except ConflictError:
    print("lost")
else:
    print("won")
"""


def test_of_many_processes_one_wins(ledger_url: str, ledger: Ledger, versions: list[str]) -> None:
    release(ledger, "1", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, ledger_url, version],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in versions[1:4]
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(answers) == ["lost", "lost", "won"]
    assert len(ledger.events(kind="promoted")) == 2


def test_events_of_many_writers_are_all_there(ledger_url: str, ledger: Ledger) -> None:
    def write(name: int) -> None:
        mine = open_ledger(ledger_url)
        for number in range(5):
            mine.append("noted", actor=f"w{name}", reason="r", payload={"n": number})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    events = ledger.events()
    assert len(events) == 30
    for name in range(6):
        assert [e.payload["n"] for e in events if e.actor == f"w{name}"] == list(range(5))


SKEWED = """
import datetime, sys
from datetime import timedelta

hours = timedelta(hours=float(sys.argv[2]))

class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + hours

datetime.datetime = Wrong
from store.ledger import open_ledger
ledger = open_ledger(sys.argv[1])
ledger.append("noted", actor="worker", reason=sys.argv[2])
print(ledger.now().isoformat())
"""


def test_workers_whose_clocks_are_hours_apart_write_by_the_ledgers_clock(
    postgres_ledger_url: str,
) -> None:
    """PostgreSQL's clock is one for all. With SQLite a worker's own counts, which shows that the
    clocks are wrong indeed."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    for hours in ("5", "-5", "3"):
        words = [sys.executable, "-c", SKEWED, postgres_ledger_url, hours]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert abs(datetime.fromisoformat(said.strip()) - datetime.now(UTC)) < timedelta(minutes=5)
    events = open_ledger(postgres_ledger_url).events()
    assert [e.reason for e in events] == ["5", "-5", "3"]
    times = [e.at for e in events]
    assert times == sorted(times)
    assert before < times[0] <= times[-1] < datetime.now(UTC) + timedelta(seconds=1)


def test_with_sqlite_a_process_own_clock_counts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    subprocess.run([sys.executable, "-c", SKEWED, url, "5"], check=True, capture_output=True)
    (event,) = open_ledger(url).events()
    assert event.at > datetime.now(UTC) + timedelta(hours=4)
