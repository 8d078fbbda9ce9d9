"""Any sequence of promotions, rollbacks, crashes and repairs is a list that grows and shrinks."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from store.aliases import Aliases
from store.ledger import Release, migrate, open_ledger
from updater import release, standing
from updater.errors import InputError

VERSIONS = ["1", "2", "3", "4", "5"]
WHO = {"actor": "ann", "reason": "r"}


class Crash(BaseException):
    """A kill at the point where it is raised."""


class Fragile(Aliases):
    """Dies at the next write if told to, after or before it has taken place."""

    dies: str = ""

    def set(self, alias: str, version: str) -> None:
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise Crash
        super().set(alias, version)
        if dies == "after":
            raise Crash


class History(RuleBasedStateMachine):
    """`stack` and `ever` are the model: what is deployed is the last of the stack."""

    template: Path  # a ledger and an MLflow with VERSIONS verified and accepted, none deployed

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.folder, dirs_exist_ok=True)
        self.ledger = open_ledger(f"sqlite:///{self.folder / 'store.db'}")
        self.aliases = Fragile(f"sqlite:///{self.folder / 'mlflow.db'}", "m")
        self.stack: list[str] = []
        self.ever: list[str] = []
        self.promotions = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def until_it_lives(self, act, dies: str) -> str | None:
        """What `act` gives; where it is killed it is run again, as a person would."""
        self.aliases.dies = dies
        try:
            done = act()
        except Crash:
            assert release.deployed(self.ledger) == self.stack[-1], "the fact is kept"
            done = act()
        self.aliases.dies = ""
        return str(done.deployed)

    @rule(version=st.sampled_from(VERSIONS), dies=st.sampled_from(["", "before", "after"]))
    def promote(self, version: str, dies: str) -> None:
        if self.stack[-1:] != [version]:
            self.stack.append(version)
            self.ever.append(version)
            self.promotions += 1

        def act() -> release.Release:
            return release.promote(self.ledger, self.aliases, version, force=True, **WHO)

        assert self.until_it_lives(act, dies) == version

    @precondition(lambda self: len(self.stack) > 1)
    @rule(dies=st.sampled_from(["", "before"]))
    def roll_back(self, dies: str) -> None:
        self.stack.pop()

        def act() -> release.Release:
            return release.rollback(self.ledger, self.aliases, **WHO)

        assert self.until_it_lives(act, dies) == self.stack[-1]

    @precondition(lambda self: set(self.ever) - set(self.stack[-1:]))
    @rule(data=st.data(), dies=st.sampled_from(["", "before", "after"]))
    def roll_back_to(self, data: st.DataObject, dies: str) -> None:
        to = data.draw(st.sampled_from(sorted(set(self.ever) - {self.stack[-1]})))
        if to in self.stack:
            last = len(self.stack) - 1 - self.stack[::-1].index(to)
            del self.stack[last + 1 :]
        else:
            self.stack.append(to)

        def act() -> release.Release:
            return release.rollback(self.ledger, self.aliases, to=to, **WHO)

        assert self.until_it_lives(act, dies) == to

    @precondition(lambda self: len(self.stack) == 1)
    @rule()
    def roll_back_too_far(self) -> None:
        with pytest.raises(InputError):
            release.rollback(self.ledger, self.aliases, **WHO)

    @precondition(lambda self: self.stack)
    @rule(version=st.sampled_from(VERSIONS))
    def somebody_moves_the_alias(self, version: str) -> None:
        self.aliases.set("deployed", version)
        assert release.consistent(self.ledger, self.aliases) == (version == self.stack[-1])
        assert release.repair(self.ledger, self.aliases) == (version != self.stack[-1])

    @invariant()
    def the_ledger_and_the_aliases_say_what_the_list_says(self) -> None:
        if not hasattr(self, "stack"):
            return
        events = self.ledger.events()
        assert standing.deployments(events) == self.stack
        if self.stack:
            before = self.stack[-2] if self.stack[1:] else None
            assert standing.before(self.ledger, self.stack[-1]) == before
        assert release.deployed(self.ledger) == (self.stack[-1] if self.stack else None)
        assert set(self.ledger.ever_deployed()) == set(self.ever)
        assert sum(e.kind == "promoted" for e in events) == self.promotions
        assert release.consistent(self.ledger, self.aliases)


releases = st.builds(
    Release, st.sampled_from(["promoted", "rolled_back"]), st.sampled_from(VERSIONS[:4])
)


@given(history=st.lists(releases, min_size=1, max_size=30))
def test_the_newest_releases_tell_the_upper_part_of_the_stack(history: list[Release]) -> None:
    whole = standing.deployments(history)
    for start in range(1, len(history)):
        upper = standing.deployments(history[start:], below=history[start - 1])
        assert upper == whole[-len(upper) :]


def test_history_is_a_list(
    tmp_path: Path, mlflow_tables, story_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "FIRST_READ", 2)  # so that histories of twenty are long
    monkeypatch.setattr(standing, "MORE", 2)
    migrate(f"sqlite:///{tmp_path / 'store.db'}")
    ledger = open_ledger(f"sqlite:///{tmp_path / 'store.db'}")
    for version in VERSIONS:
        story_of(ledger).candidate(version, None)
    del ledger  # the copies are taken of closed files

    class Machine(History):
        template = tmp_path

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
