"""The tour behind `updater demo`: the main job on support tickets that drift by month.

A small Nemotron-H model learns three months of tickets and is deployed. Then: an update with EWC
and rehearsal, which the gate promotes; one by fine-tuning alone, which it rejects because the
model forgets; a rollback; and the report. Everything is the real thing, only small; killed and
started again, it goes on where it was.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.ledger import Update
from updater import outcome, pipeline, release
from updater.demo import tickets
from updater.errors import InputError, UpdateError
from updater.files import write_text
from updater.gate_reasons import on_one_line
from updater.initialise import init_workspace
from updater.report.collect import collect
from updater.report.page import render
from updater.settings import RegularizerSettings, RehearsalSettings
from updater.workspace import CONFIG_FILE, Workspace

FIRST_MONTHS = ("2026-01", "2026-02", "2026-03")
CAREFUL_MONTH, CARELESS_MONTH = "2026-04", "2026-05"
NUM_PER_MONTH = 1200
SEED = 0
ELSEWHERE = "take it in a new folder (`make demo DEMO=DIR`, which is `updater demo DIR`)"
OR_AGAIN = f"{ELSEWHERE}, or delete this one and run it again"
"""Said of the demo's own workspace alone: nobody else's is the demo's to delete."""

log = logging.getLogger("updater")

CONFIG = """\
# The demo's workspace: support tickets, to be sorted into queues.
[workspace]
name = "tickets"

[model]
architecture = "nemotron-3-tiny"
vocabulary_size = 1024

[source]
uri = "tickets.jsonl"
[source.fields]
id = "{id}"
prompt = "{text}\\nQueue:"
completion = " {category}"
date = "{date}"
subject = "{customer}"

[periods]
every = "month"
holdout_fraction = 0.25
schedule = "0 3 1 * *"

[rehearsal]
policy = "balanced"
fraction = 0.3

[regularizer]
method = "ewc"

[gate]
margin_fraction = 0.05
"""


@dataclasses.dataclass(frozen=True)
class Tour:
    """What the tour showed; the answers are those of the commands."""

    first: dict[str, Any]
    careful: dict[str, Any]
    careless: dict[str, Any]
    rolled_back: dict[str, Any]
    report: Path
    workspace: Workspace


def run(
    folder: Path,
    *,
    progress: bool,
    say: Callable[[str], None],
    config: str = CONFIG,
    num_per_month: int = NUM_PER_MONTH,
) -> Tour:
    """The tour has been taken in the workspace `folder`.

    Args:
        config, num_per_month: the workspace's updater.toml and the tickets of a month; a smaller
            model and fewer tickets make a shorter tour.

    Raises:
        InputError: `folder` holds something else than the demo; nothing in it was touched.
        UpdateError: a step failed, or the gate did not judge as the tour says it does.
    """
    workspace = _workspace(folder, config, num_per_month, progress=progress)
    _check_untouched(workspace)
    with workspace.lock():
        say("1/5  A first model learns January to March, and is deployed.")
        first = pipeline.scratch(workspace, FIRST_MONTHS, deploy=True)
        say("2/5  April arrives: an update with EWC and rehearsal.")
        careful = pipeline.update(workspace, CAREFUL_MONTH)
        say("3/5  May arrives: fine-tuning on May alone, with nothing to hold the past.")
        careless = _taken(workspace, careful) or pipeline.update(
            _careless(workspace), CARELESS_MONTH
        )
    _expect(workspace, careful, "accepted")
    _expect(workspace, careless, "rejected")
    say("4/5  On-call rolls back April's version.")
    rolled_back = _roll_back(workspace, careful)
    say("5/5  The report.")
    report = workspace.root / f"report-{careful.candidate}.html"
    write_text(report, render(collect(workspace, str(careful.candidate))))
    return Tour(
        first=outcome.first(workspace, first),
        careful=outcome.update(workspace, careful),
        careless=outcome.update(workspace, careless),
        rolled_back=rolled_back,
        report=report,
        workspace=workspace,
    )


def _expect(workspace: Workspace, update: Update, wanted: str) -> None:
    """The gate said what the tour is to show."""
    answer = outcome.update(workspace, update)
    if answer["verdict"] != wanted:
        raise UpdateError(
            f"the demo expected the gate to say {wanted} of update {update.id}, and it said "
            f"{answer['verdict']}: {on_one_line(answer['reasons'])}"
        )


def mean_accuracy(answer: dict[str, Any], who: str, *, past: bool) -> float:
    """The mean accuracy of `who` ("base" or "candidate") on the past periods, or on the new."""
    cells = [s[who] for p, s in answer["scores"].items() if (p != answer["period"]) == past]
    return sum(cells) / len(cells)


def _workspace(folder: Path, config: str, num_per_month: int, *, progress: bool) -> Workspace:
    folder = folder.expanduser().resolve()
    _check_ours(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration is written first: by it alone a tour that was killed knows its folder again.
    if not (folder / CONFIG_FILE).exists():
        write_text(folder / CONFIG_FILE, config)
    rows = folder / "tickets.jsonl"
    if not rows.exists():
        months = [*FIRST_MONTHS, CAREFUL_MONTH, CARELESS_MONTH]
        tickets.write(rows, months, num_per_month, SEED)
    init_workspace(folder)
    return Workspace.open(folder, progress=progress)


def _check_ours(folder: Path, config: str) -> None:
    """The folder is new, empty, or the demo's, which its configuration says."""
    rule = "the demo works in a workspace of its own"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file", rule, ELSEWHERE)
    written = folder / CONFIG_FILE
    if written.is_file():
        if written.read_bytes() != config.encode():
            raise InputError(f"{folder} holds another workspace", rule, ELSEWHERE)
        return
    staged = f".{CONFIG_FILE}."  # as `write_text` begins, which may have been killed
    found = sorted(p.name for p in folder.iterdir() if not p.name.startswith(staged))
    if found:
        some = ", ".join(found[:3]) + (", .." if len(found) > 3 else "")
        raise InputError(f"{folder} is not empty: it holds {some}", rule, ELSEWHERE)


def _check_untouched(workspace: Workspace) -> None:
    """No version but the tour's own two has been promoted here."""
    ledger, learnt = workspace.ledger, (FIRST_MONTHS[-1], CAREFUL_MONTH)
    for event in ledger.events(kind="promoted"):
        version = ledger.model_version(str(event.version))
        is_ours = version.kind != "compress" and version.periods[-1] in learnt
        if not is_ours:
            raise InputError(
                f"{workspace.root} has moved on: {event.actor} promoted version {version.id}",
                "the tour tells the story of a workspace from its beginning, in which only the "
                "models of January to March and of April are promoted",
                OR_AGAIN,
            )


def _careless(workspace: Workspace) -> Workspace:
    """The same workspace, its training holding on to nothing."""
    settings = dataclasses.replace(
        workspace.settings,
        rehearsal=RehearsalSettings(policy="none"),
        regularizer=RegularizerSettings(method="none"),
    )
    return Workspace(workspace.root, settings, progress=workspace.progress)


def _taken(workspace: Workspace, careful: Update) -> Update | None:
    """May's update, where an earlier tour has finished it: since the rollback its base is not
    deployed, so the pipeline would begin another one."""
    ledger = workspace.ledger
    for update in ledger.updates(period=CARELESS_MONTH):
        last = ledger.step(update.id, "release")
        if update.base == careful.candidate and last is not None and last.state == "finished":
            return update
    return None


def _roll_back(workspace: Workspace, careful: Update) -> dict[str, Any]:
    """What is deployed is the version before April's; taking the tour twice rolls back once."""
    deployed = release.deployed(workspace.ledger)
    if deployed == careful.candidate:
        done = release.rollback(
            workspace.ledger,
            workspace.aliases,
            actor=workspace.actor,
            reason="the demo's on-call exercise",
        )
        return {"deployed": done.deployed, "previous": done.previous}
    return {"deployed": deployed, "previous": careful.candidate}
