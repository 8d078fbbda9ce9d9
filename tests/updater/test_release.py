"""Releases on a real ledger (SQLite and PostgreSQL) and MLflow's own alias tables."""

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from store.aliases import Aliases
from store.errors import ConflictError, NotFoundError, StoreError
from store.ledger import Ledger, open_ledger
from updater import objections, release
from updater.errors import InputError
from updater.standing import deployments

ROOT = Path(__file__).parents[2]
WHO = {"actor": "ann", "reason": "looked at it"}


@pytest.fixture
def aliases(mlflow_tables) -> Aliases:
    return Aliases(mlflow_tables.url, "m")


class Failing(Aliases):
    """Breaks off at the first write of an alias, before or after it took place."""

    def __init__(self, whole: Aliases, *, after: bool = False) -> None:
        self._place = whole._place
        self.after = after

    def set(self, alias: str, version: str) -> None:
        if self.after:
            super().set(alias, version)
        raise KeyboardInterrupt("killed here")


def kinds(ledger: Ledger) -> list[tuple[str, str | None]]:
    return [(e.kind, e.version) for e in ledger.events() if e.kind != "verified"]


def deploy_three(ledger: Ledger, aliases: Aliases, story) -> None:
    for version, base in (("1", None), ("2", "1"), ("3", "2")):
        update = story.candidate(version, base)
        release.promote(ledger, aliases, version, update=update, **WHO)
        story.step(update, "release", {"promoted": True, "awaiting": False})


def test_the_first_version_is_promoted_over_nothing(ledger, aliases, story) -> None:
    story.candidate("1", None)
    done = release.promote(ledger, aliases, "1", **WHO)
    assert (done.deployed, done.previous, done.event.kind) == ("1", None, "promoted")
    assert (done.event.actor, done.event.reason) == ("ann", "looked at it")
    assert aliases.get("deployed") == "1"
    assert release.deployed(ledger) == "1"


def test_rollback_walks_the_history_and_a_promotion_goes_on_top(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    assert release.rollback(ledger, aliases, **WHO).deployed == "2"
    done = release.rollback(ledger, aliases, **WHO)
    assert (done.deployed, done.previous, aliases.get("deployed")) == ("1", "2", "1")
    with pytest.raises(InputError, match="version 1 is where the deployments begin"):
        release.rollback(ledger, aliases, **WHO)
    release.promote(ledger, aliases, "3", force=True, **WHO)
    assert deployments(ledger.events()) == ["1", "3"]
    assert release.rollback(ledger, aliases, **WHO).deployed == "1"
    assert ledger.ever_deployed() == ["1", "2", "3"]


def test_a_rollback_that_another_release_came_before_is_refused(
    ledger, aliases, story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was meant for what was deployed when it began: neither lost in silence nor done to another
    version."""
    deploy_three(ledger, aliases, story)
    releases, story_update = ledger.releases, story.candidate("4", "3")

    def late(most: int) -> object:
        monkeypatch.undo()
        release.promote(ledger, aliases, "4", update=story_update, **WHO)
        return releases(most)

    monkeypatch.setattr(ledger, "releases", late)
    with pytest.raises(ConflictError, match="version 3 was to be rolled back, but version 4 is"):
        release.rollback(ledger, aliases, **WHO)
    assert kinds(ledger)[-1] == ("promoted", "4")
    assert release.rollback(ledger, aliases, **WHO).deployed == "3"


def test_an_approval_that_another_came_before_is_the_same_approval(
    ledger, aliases, story, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_three(ledger, aliases, story)
    update = story.candidate("4", "3", "review")
    first_event = ledger.first_event

    def late(*kinds: str, **of: object) -> object:
        monkeypatch.undo()
        release.approve(ledger, aliases, update, **WHO)
        return first_event(*kinds, **of)

    monkeypatch.setattr(ledger, "first_event", late)
    assert release.approve(ledger, aliases, update, **WHO).deployed == "4"
    assert [kind for kind, version in kinds(ledger) if version == "4"] == ["approved", "promoted"]


def test_rollback_may_name_any_version_that_was_deployed(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    assert release.rollback(ledger, aliases, to="1", **WHO).deployed == "1"
    assert deployments(ledger.events()) == ["1"]
    assert release.rollback(ledger, aliases, to="1", **WHO).previous == "3", "said twice, done once"
    assert release.rollback(ledger, aliases, to="3", **WHO).previous == "1"
    assert deployments(ledger.events()) == ["1", "3"]
    assert release.rollback(ledger, aliases, **WHO).deployed == "1"


def test_rollback_says_where_it_can_t_go(ledger, aliases, story) -> None:
    with pytest.raises(InputError, match="nothing is deployed"):
        release.rollback(ledger, aliases, **WHO)
    deploy_three(ledger, aliases, story)
    story.candidate("4", "3")
    before = kinds(ledger)
    with pytest.raises(InputError, match=r"version 4 was never deployed.*: 1, 2\. name"):
        release.rollback(ledger, aliases, to="4", **WHO)
    with pytest.raises(InputError, match="version 3 is deployed already"):
        release.rollback(ledger, aliases, to="3", **WHO)
    with pytest.raises(NotFoundError, match="no version 77"):
        release.rollback(ledger, aliases, to="77", **WHO)
    assert kinds(ledger) == before


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_everything_takes_a_reason(ledger, aliases, story, reason: str) -> None:
    update = story.candidate("1", None, "review")
    who = {"actor": "ann", "reason": reason}
    for act in (
        lambda: release.promote(ledger, aliases, "1", force=True, **who),
        lambda: release.rollback(ledger, aliases, **who),
        lambda: release.approve(ledger, aliases, update, **who),
        lambda: release.reject(ledger, aliases, update, **who),
    ):
        with pytest.raises(InputError, match="reason: empty"):
            act()
    assert kinds(ledger) == []


def test_promoting_what_is_deployed_appends_nothing(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    before = kinds(ledger)
    done = release.promote(ledger, aliases, "3", **WHO)
    assert (done.deployed, done.previous) == ("3", "2")
    assert kinds(ledger) == before


def test_what_is_not_verified_is_refused_even_by_force(ledger, aliases, story) -> None:
    story.update("u1", None)
    story.version("1", None, update="u1")
    story.judge("u1", "accepted", verified=False)
    for force in (False, True):
        with pytest.raises(InputError, match=r"not verified.*`updater evaluate 1`"):
            release.promote(ledger, aliases, "1", force=force, **WHO)
    with pytest.raises(InputError, match="`updater evaluate 1`"):
        release.approve(ledger, aliases, "u1", **WHO)
    assert kinds(ledger) == []


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("rejected", r"rejected by the gate \(why\).*--force"),
        ("review", "`updater approve u-2 --reason TEXT`"),
    ],
)
def test_what_the_gate_did_not_accept_takes_force(
    ledger, aliases, story, verdict: str, said: str
) -> None:
    release.promote(ledger, aliases, "1", update=story.candidate("1", None), **WHO)
    story.candidate("2", "1", verdict)
    with pytest.raises(InputError, match=said):
        release.promote(ledger, aliases, "2", **WHO)
    done = release.promote(ledger, aliases, "2", force=True, **WHO)
    assert done.deployed == "2"
    assert len(done.event.payload["overridden"]) == 1


def test_the_gates_reasons_are_one_sentence_with_one_stop(ledger, aliases, story) -> None:
    story.update("u", None)
    story.version("1", None, update="u")
    ledger.append("verified", "1", actor="t", reason="same", update="u")
    reasons = ["p1 is worse (310 holdout examples).", "p2 is worse (9 holdout examples)."]
    ledger.record_verdict("u", "rejected", reasons=reasons, comparisons=[], rule={})
    told = "was rejected by the gate (p1 is worse (310 holdout examples); p2 is worse (9 holdout "
    with pytest.raises(InputError) as caught:
        release.promote(ledger, aliases, "1", **WHO)
    said = f"version 1 {told}examples)). only what it accepts is deployed. `updater promote 1 "
    assert str(caught.value).startswith(said)
    with pytest.raises(InputError) as caught:
        release.approve(ledger, aliases, "u", **WHO)
    assert str(caught.value).startswith(f"update u {told}examples)). only an update under review")


def test_a_version_without_a_verdict_takes_force(ledger, aliases, story) -> None:
    story.version("1", None)
    ledger.append("verified", "1", actor="a", reason="r")
    with pytest.raises(InputError, match="version 1 has no verdict yet"):
        release.promote(ledger, aliases, "1", **WHO)
    assert release.promote(ledger, aliases, "1", force=True, **WHO).deployed == "1"


def test_a_version_replaces_its_base_alone(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    story.candidate("4", "2")
    story.candidate("5", None)
    with pytest.raises(InputError, match="made from version 2, but version 3 is deployed"):
        release.promote(ledger, aliases, "4", **WHO)
    with pytest.raises(InputError, match="made from nothing, but version 3 is deployed"):
        release.promote(ledger, aliases, "5", **WHO)
    assert release.promote(ledger, aliases, "4", force=True, **WHO).previous == "3"


def test_an_unknown_version_or_a_stranger_to_the_update_is_refused(ledger, aliases, story) -> None:
    update = story.candidate("1", None)
    story.candidate("2", None)
    with pytest.raises(NotFoundError, match=r"no version 7 .*: 1, 2"):
        release.promote(ledger, aliases, "7", **WHO)
    with pytest.raises(InputError, match="version 2 is not the candidate of update u-1"):
        release.promote(ledger, aliases, "2", update=update, **WHO)
    with pytest.raises(NotFoundError, match="no update u9"):
        release.promote(ledger, aliases, "1", update="u9", **WHO)


def test_an_update_is_promoted_once_for_ever(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    release.rollback(ledger, aliases, **WHO)
    before = kinds(ledger)
    done = release.promote(ledger, aliases, "3", update="u-3", **WHO)
    assert (done.deployed, done.event.version) == ("2", "3")
    assert (kinds(ledger), aliases.get("deployed")) == (before, "2")


def test_what_was_promoted_by_hand_is_not_promoted_again_by_its_update(
    ledger, aliases, story
) -> None:
    release.promote(ledger, aliases, "1", update=story.candidate("1", None), **WHO)
    update = story.candidate("2", "1")
    release.promote(ledger, aliases, "2", **WHO)
    release.rollback(ledger, aliases, **WHO)
    assert release.promote(ledger, aliases, "2", update=update, **WHO).deployed == "1"
    assert kinds(ledger) == [("promoted", "1"), ("promoted", "2"), ("rolled_back", "1")]


# Approval by a person


def await_approval(ledger, aliases, story, verdict: str = "review") -> str:
    release.promote(ledger, aliases, "1", update=story.candidate("1", None), **WHO)
    story.step("u-1", "release", {"promoted": True, "awaiting": False})
    update = story.candidate("2", "1", verdict)
    release.repair(ledger, aliases)
    story.step(update, "release", {"promoted": False, "awaiting": True})
    return str(update)


@pytest.mark.parametrize("verdict", ["review", "accepted"])
def test_approving_promotes_once(ledger, aliases, story, verdict: str) -> None:
    update = await_approval(ledger, aliases, story, verdict)
    assert release.awaiting_approval(ledger) == [update]
    assert (release.candidate(ledger), aliases.get("candidate")) == ("2", "2")
    assert release.consistent(ledger, aliases)
    done = release.approve(ledger, aliases, update, **WHO)
    assert (done.deployed, done.previous, done.event.update) == ("2", "1", update)
    again = release.approve(ledger, aliases, update, **WHO)
    assert again == dataclasses.replace(done, is_new=False, moved=False)
    assert kinds(ledger) == [("promoted", "1"), ("approved", "2"), ("promoted", "2")]
    assert release.awaiting_approval(ledger) == []
    assert (aliases.get("deployed"), aliases.get("candidate")) == ("2", None)
    with pytest.raises(InputError, match="u-2 was approved already"):
        release.reject(ledger, aliases, update, **WHO)


def test_after_a_rollback_an_approved_update_waits_no_more(ledger, aliases, story) -> None:
    update = await_approval(ledger, aliases, story)
    release.approve(ledger, aliases, update, **WHO)
    assert release.rollback(ledger, aliases, **WHO).deployed == "1"
    assert release.awaiting_approval(ledger) == []
    assert release.approve(ledger, aliases, update, **WHO).deployed == "1"


def test_tried_again_after_a_rollback_it_is_not_promoted_again(ledger, aliases, story) -> None:
    """As by Airflow, whose first try was cut short when the event was written."""
    deploy_three(ledger, aliases, story)
    story.candidate("4", "3")
    asked = {"after": ledger.last_release().id, **WHO}
    assert release.promote(ledger, aliases, "4", **asked).is_new
    assert release.rollback(ledger, aliases, **WHO).deployed == "3"
    again = release.promote(ledger, aliases, "4", **asked)
    assert (again.deployed, again.event.version, again.is_new) == ("3", "4", False)
    assert kinds(ledger)[-2:] == [("promoted", "4"), ("rolled_back", "3")]


def test_a_rollback_tried_again_takes_back_nothing_that_came_since(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    asked = {"to": "2", "after": ledger.last_release().id, **WHO}
    assert release.rollback(ledger, aliases, **asked).is_new
    story.candidate("4", "2")
    release.promote(ledger, aliases, "4", **WHO)
    again = release.rollback(ledger, aliases, **asked)
    assert (again.deployed, again.event.version, again.is_new) == ("4", "2", False)
    assert kinds(ledger)[-2:] == [("rolled_back", "2"), ("promoted", "4")]


def test_what_was_asked_before_somebody_released_is_not_done(ledger, aliases, story) -> None:
    release.promote(ledger, aliases, "1", update=story.candidate("1", None), after=0, **WHO)
    story.candidate("2", "1")
    story.candidate("3", "1")
    asked = {"after": ledger.last_release().id, **WHO}
    release.promote(ledger, aliases, "2", actor="bob", reason="better")
    said = r"since this was asked for, bob has promoted version 2 \(better\); nothing was changed"
    with pytest.raises(ConflictError, match=said):
        release.promote(ledger, aliases, "3", force=True, **asked)
    with pytest.raises(ConflictError, match=said):
        release.rollback(ledger, aliases, to="1", **asked)
    assert release.deployed(ledger) == "2"
    asked["after"] = ledger.last_release().id
    release.rollback(ledger, aliases, actor="bob", reason="worse")
    said = r"since this was asked for, bob has rolled back to version 1 \(worse\)"
    with pytest.raises(ConflictError, match=said):
        release.promote(ledger, aliases, "3", force=True, **asked)


def test_an_event_that_there_is_not_guards_nothing_and_is_refused(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    last = ledger.last_release().id
    for verb, more in ((release.rollback, {"to": "2"}), (release.promote, {"version": "2"})):
        with pytest.raises(InputError, match=rf"no such event.*last release is event {last}\."):
            verb(ledger, aliases, **more, after=last + 1, **WHO)
    assert release.deployed(ledger) == "3"


def test_the_alias_of_what_is_deployed_is_deleted_for_no_empty_ledger(
    ledger, aliases, story, mlflow_tables
) -> None:
    """As after a loss of the ledger: whoever serves by the alias goes on."""
    story.candidate("1", None)
    aliases.set("deployed", "1")
    assert not release.consistent(ledger, aliases)
    with pytest.raises(ConflictError, match="by MLflow version 1 is deployed, and the ledger"):
        release.repair(ledger, aliases)
    assert aliases.get("deployed") == "1"


def test_a_release_that_mlflow_does_not_follow_says_that_it_is_done(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    gone = Aliases("http://127.0.0.1:9", "m")
    with pytest.raises(
        StoreError, match=r"version 2 is deployed by the ledger \(was 3\).*--repair"
    ):
        release.rollback(ledger, gone, to="2", **WHO)
    assert release.deployed(ledger) == "2"
    assert release.repair(ledger, aliases)


def test_a_promotion_is_looked_into_without_being_done(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    story.candidate("4", "2")
    release.check_promotion(ledger, "3")
    with pytest.raises(InputError, match="made from version 2, but version 3 is deployed"):
        release.check_promotion(ledger, "4")
    release.check_promotion(ledger, "4", force=True)
    assert release.deployed(ledger) == "3"


@pytest.mark.parametrize("by_hand", [False, True])
def test_where_nobody_answered_what_was_decided_elsewhere_stays(
    ledger, aliases, story, by_hand: bool
) -> None:
    update = await_approval(ledger, aliases, story)
    if by_hand:
        release.promote(ledger, aliases, "2", force=True, **WHO)
    else:
        release.approve(ledger, aliases, update, **WHO)
    events = ledger.events()
    assert not release.reject(ledger, aliases, update, if_undecided=True, **WHO)
    assert ledger.events() == events
    with pytest.raises(InputError, match="already"):
        release.reject(ledger, aliases, update, **WHO)


def test_rejecting_ends_it(ledger, aliases, story) -> None:
    update = await_approval(ledger, aliases, story)
    release.reject(ledger, aliases, update, actor="bob", reason="refunds got worse")
    release.reject(ledger, aliases, update, **WHO)
    assert kinds(ledger) == [("promoted", "1"), ("rejected", "2")]
    assert (release.awaiting_approval(ledger), aliases.get("candidate")) == ([], None)
    said = r"rejected by bob \(refunds got worse\)"
    with pytest.raises(InputError, match=said):
        release.approve(ledger, aliases, update, **WHO)
    with pytest.raises(InputError, match=said):
        release.promote(ledger, aliases, "2", **WHO)
    assert release.promote(ledger, aliases, "2", force=True, **WHO).deployed == "2"


def test_what_can_t_be_decided_is_said(ledger, aliases, story) -> None:
    update = await_approval(ledger, aliases, story)
    story.update("u9", "1")
    story.candidate("3", "1", "rejected")
    for decide in (release.approve, release.reject):
        with pytest.raises(InputError, match=r"u9 has no verdict yet.*`updater update p-u9`"):
            decide(ledger, aliases, "u9", **WHO)
        with pytest.raises(InputError, match=r"u-3 was rejected by the gate \(why\)"):
            decide(ledger, aliases, "u-3", **WHO)
        with pytest.raises(NotFoundError, match="no update u77 in the ledger; there are: u-1, u-2"):
            decide(ledger, aliases, "u77", **WHO)
    story.candidate("4", "1")
    release.promote(ledger, aliases, "4", **WHO)
    assert release.awaiting_approval(ledger) == []
    with pytest.raises(InputError, match="made from version 1, but version 4 is deployed"):
        release.approve(ledger, aliases, update, **WHO)
    with pytest.raises(InputError, match="u-4 was promoted already"):
        release.reject(ledger, aliases, "u-4", **WHO)
    assert ("approved", "2") not in kinds(ledger)


def test_an_approval_that_broke_off_before_its_promotion_still_waits(
    ledger, aliases, story
) -> None:
    update = await_approval(ledger, aliases, story)
    ledger.append("approved", "2", actor="ann", reason="looked", update=update)
    assert release.awaiting_approval(ledger) == [update]
    with pytest.raises(InputError, match="approved already"):
        release.reject(ledger, aliases, update, **WHO)
    assert release.approve(ledger, aliases, update, **WHO).deployed == "2"
    assert kinds(ledger)[1:] == [("approved", "2"), ("promoted", "2")]


def test_the_newest_candidate_has_the_alias(ledger, aliases, story) -> None:
    await_approval(ledger, aliases, story)
    story.candidate("3", "1", "review")
    assert release.candidate(ledger) == "3"
    assert release.consistent(ledger, aliases), "between verdict and release either is right"
    assert release.repair(ledger, aliases)
    assert (aliases.get("candidate"), release.consistent(ledger, aliases)) == ("3", True)
    story.step("u-3", "release", {"promoted": False, "awaiting": True})
    assert release.awaiting_approval(ledger) == ["u-2", "u-3"]
    release.reject(ledger, aliases, "u-3", **WHO)
    assert aliases.get("candidate") == "2"


def test_a_first_model_that_nobody_deploys_is_no_candidate(ledger, aliases, story) -> None:
    story.candidate("1", None)
    assert release.candidate(ledger) is None
    assert not release.repair(ledger, aliases)
    assert release.consistent(ledger, aliases)


# Unfinished work


def test_unfinished_is_what_running_again_would_finish(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    story.update("half", "3")
    story.candidate("4", "3")
    story.update("stale", "2")
    assert release.unfinished(ledger) == ["half", "u-4"]
    release.promote(ledger, aliases, "4", update="u-4", **WHO)
    assert release.unfinished(ledger) == ["u-4"], "promoted, but not published yet"
    story.step("u-4", "release", {"promoted": True, "awaiting": False})
    assert release.unfinished(ledger) == []
    release.rollback(ledger, aliases, **WHO)
    assert release.unfinished(ledger) == ["half"]


def test_a_first_model_is_unfinished_until_it_or_a_later_one_is_done(ledger, story) -> None:
    first = story.update("s1", None)
    assert release.unfinished(ledger) == ["s1"]
    ledger.open_update(dataclasses.replace(first, id="s2", config_digest="d2"))
    assert release.unfinished(ledger) == ["s1"], "s2 has not started"
    story.step("s2", "ingest")
    assert release.unfinished(ledger) == ["s1", "s2"]
    story.step("s2", "release", {"promoted": False, "awaiting": False})
    assert release.unfinished(ledger) == []


# Crashes and races


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_event_and_alias_it_is_seen_and_repaired(
    ledger, aliases, story, after: bool
) -> None:
    deploy_three(ledger, aliases, story)
    story.candidate("4", "3")
    with pytest.raises(KeyboardInterrupt):
        release.promote(ledger, Failing(aliases, after=after), "4", update="u-4", **WHO)
    assert release.deployed(ledger) == "4"
    assert release.consistent(ledger, aliases) is after
    assert release.promote(ledger, aliases, "4", update="u-4", **WHO).deployed == "4"
    assert release.consistent(ledger, aliases)
    assert kinds(ledger).count(("promoted", "4")) == 1
    assert not release.repair(ledger, aliases)


@pytest.mark.parametrize("to", [None, "2"])
def test_a_rollback_that_was_killed_is_finished_and_not_walked_past(
    ledger, aliases, story, to: str | None
) -> None:
    deploy_three(ledger, aliases, story)
    with pytest.raises(KeyboardInterrupt):
        release.rollback(ledger, Failing(aliases), to=to, **WHO)
    assert (aliases.get("deployed"), release.consistent(ledger, aliases)) == ("3", False)
    done = release.rollback(ledger, aliases, to=to, **WHO)
    assert (done.deployed, done.previous, aliases.get("deployed")) == ("2", "3", "2")
    assert kinds(ledger).count(("rolled_back", "2")) == 1
    assert release.rollback(ledger, aliases, **WHO).deployed == "1"


def test_aliases_that_somebody_moved_are_put_back(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    aliases.set("deployed", "1")
    aliases.set("candidate", "2")
    assert not release.consistent(ledger, aliases)
    assert release.repair(ledger, aliases)
    assert (aliases.get("deployed"), aliases.get("candidate")) == ("3", None)


def test_aliases_that_will_not_stay_are_not_fought_for_ever(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)

    class Fighting(Failing):
        def set(self, alias: str, version: str) -> None:
            pass

    aliases.set("deployed", "1")
    with pytest.raises(ConflictError, match="something else moves them"):
        release.repair(ledger, Fighting(aliases))


KILLED = """
import os, sys
from store.aliases import Aliases
from store.ledger import open_ledger
from updater import release

class Killed(Aliases):
    def set(self, alias, version):
        os.kill(os.getpid(), 9)

release.promote(open_ledger(sys.argv[1]), Killed(sys.argv[2], "m"), "4",
                actor="a", reason="r", update="u-4")
"""


def test_a_process_killed_between_event_and_alias_is_repaired(
    ledger_url, ledger, aliases, story, mlflow_tables
) -> None:
    deploy_three(ledger, aliases, story)
    story.candidate("4", "3")
    command = [sys.executable, "-c", KILLED, ledger_url, mlflow_tables.url]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert release.deployed(ledger) == "4"
    assert (aliases.get("deployed"), release.consistent(ledger, aliases)) == ("3", False)
    release.promote(ledger, aliases, "4", update="u-4", **WHO)
    assert release.consistent(ledger, aliases)
    assert kinds(ledger).count(("promoted", "4")) == 1


def test_of_rival_promotions_one_wins_and_the_alias_is_its(
    ledger_url, ledger, aliases, story, mlflow_tables
) -> None:
    release.promote(ledger, aliases, "1", update=story.candidate("1", None), **WHO)
    rivals = ["2", "3", "4", "5"]
    for rival in rivals:
        story.candidate(rival, "1")
    start = threading.Barrier(len(rivals))

    def promote(version: str) -> bool:
        mine, shown = open_ledger(ledger_url), Aliases(mlflow_tables.url, "m")
        start.wait(60)
        try:
            release.promote(mine, shown, version, update=f"u-{version}", **WHO)
        except (ConflictError, InputError):
            return False
        return True

    with ThreadPoolExecutor(len(rivals)) as pool:
        won = [v for v, ok in zip(rivals, pool.map(promote, rivals), strict=True) if ok]
    assert len(won) == 1
    assert [release.deployed(ledger)] == [aliases.get("deployed")] == won
    assert release.consistent(ledger, aliases)


def test_two_runs_of_one_update_promote_it_once(ledger_url, ledger, aliases, story) -> None:
    story.candidate("1", None)
    start = threading.Barrier(3)

    def promote(_: int) -> str | None:
        mine = open_ledger(ledger_url)
        start.wait(60)
        return release.promote(mine, aliases, "1", update="u-1", **WHO).deployed

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(promote, range(3))) == ["1", "1", "1"]
    assert kinds(ledger) == [("promoted", "1")]


def test_release_imports_nothing_heavy() -> None:
    code = (
        "import sys; import updater.release; "
        "print([m for m in ('torch', 'mlflow', 'dvc', 'alembic', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_mlflow_does_not_know_is_deployed_and_said_so(
    ledger, aliases, story, mlflow_tables
) -> None:
    """After the event is written nothing may say that nothing was changed, as exit code 2 does."""
    deploy_three(ledger, aliases, story)
    Path(make_url(mlflow_tables.url).database).unlink()
    said = r"version 2 is deployed by the ledger.*no version 2 of m.*restored from its backup"
    acts = (
        lambda: release.rollback(ledger, aliases, **WHO),
        lambda: release.rollback(ledger, aliases, **WHO),
        lambda: release.promote(ledger, aliases, "2", **WHO),
        lambda: release.repair(ledger, aliases),
    )
    for act in acts:
        with pytest.raises(StoreError, match=said) as told:
            act()
        assert not isinstance(told.value, NotFoundError)
    assert kinds(ledger)[-1] == ("rolled_back", "2")
    assert kinds(ledger).count(("rolled_back", "2")) == 1, "finished, not walked past"
    with pytest.raises(StoreError, match="version 1 is deployed by the ledger"):
        release.rollback(ledger, aliases, to="1", **WHO)


def test_force_is_advised_where_it_is_needed_and_nowhere_else(ledger, aliases, story) -> None:
    deploy_three(ledger, aliases, story)
    story.candidate("4", "3", "rejected")

    def advised(version: str) -> bool:
        now = release.deployed(ledger)
        command = objections.promotion_command(ledger, ledger.model_version(version), now)
        assert f"`updater promote {version} --reason TEXT" in command
        return "--force" in command

    assert (advised("4"), advised("1")) == (True, True)
    release.rollback(ledger, aliases, **WHO)
    assert not advised("3"), "it was made from what is deployed, and accepted"
    release.rollback(ledger, aliases, **WHO)
    assert advised("3")
    with pytest.raises(InputError, match="where the deployments begin") as caught:
        release.rollback(ledger, aliases, **WHO)
    assert "--force" not in caught.value.cure
    release.promote(ledger, aliases, "2", **WHO)
    release.promote(ledger, aliases, "3", **WHO)
    assert release.deployed(ledger) == "3"
