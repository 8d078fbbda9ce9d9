"""Commands that make workspaces, versions and updates."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from updater.cli import tables
from updater.cli.app import EXIT_NOT_ACCEPTED, Session, app, many_periods, reason_option
from updater.errors import InputError, UpdateError, did_you_mean

if TYPE_CHECKING:
    from updater.workspace import Workspace


@app.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The updater.toml to start with; without one a commented example is written.",
)
@click.pass_obj
def init(session: Session, folder: Path, config_file: Path | None) -> None:
    """Make a workspace in DIR.

    It gets its configuration, data repository, ledger and MLflow store.

    Run it again at any time: it keeps what is there, and brings an older ledger's schema up to
    date.

    \b
    Example: updater init my-model --config updater.toml
    """
    from updater.initialise import init_workspace

    workspace = init_workspace(folder, config_file, session.overrides)
    answer = {"workspace": str(workspace.root), "name": workspace.settings.workspace.name}
    session.answer(answer, lambda console: tables.initialised(console, workspace))


@app.command()
@click.argument("checkpoint", type=click.Path(), metavar="CHECKPOINT")
@many_periods(required=True)
@click.pass_obj
def adopt(
    session: Session, checkpoint: str, periods: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """Register an existing checkpoint as the deployed version.

    The periods it already knows are ingested, and it is scored on them.

    \b
    Example: updater adopt ./nemotron-nano --periods 2026-01..2026-03
    """
    from updater import outcome, pipeline

    workspace = session.workspace()
    with workspace.lock():
        done = pipeline.adopt(workspace, checkpoint, periods + more)
    answer = outcome.first(workspace, done)
    session.answer(answer, lambda console: tables.first(console, workspace, done))


@app.command()
@many_periods(required=True)
@click.option("--deploy", is_flag=True, help="Deploy it, as the first version of the workspace.")
@click.pass_obj
def scratch(
    session: Session, periods: tuple[str, ...], more: tuple[str, ...], deploy: bool
) -> None:
    """Train a new model on these periods.

    It has the configured architecture and starts at random weights.

    \b
    Example: updater scratch --periods 2026-01 2026-02 2026-03 --deploy
    """
    from updater import outcome, pipeline

    workspace = session.workspace()
    with workspace.lock():
        done = pipeline.scratch(workspace, periods + more, deploy=deploy)
    answer = outcome.first(workspace, done)
    session.answer(answer, lambda console: tables.first(console, workspace, done))


@app.command()
@click.argument("period")
@click.pass_obj
def ingest(session: Session, period: str) -> None:
    """Pull and version PERIOD's rows; train nothing.

    \b
    Example: updater ingest 2026-04
    """
    from updater.steps.ingest import version_period

    workspace = session.workspace()
    with workspace.lock():
        version = version_period(workspace, period)
    counts = ("num_train", "num_holdout", "num_quarantined", "num_duplicates", "num_leaked")
    answer = {"period": period, "dataset_version": version.id}
    answer |= {name: getattr(version, name) for name in counts}
    session.answer(answer, lambda console: tables.ingested(console, workspace, version))


@app.command()
@click.argument("period")
@click.option("--yes", is_flag=True, help="Promote what the gate accepts without asking a person.")
@click.option("--fail-on-reject", is_flag=True, help="Exit 3 where the gate did not accept.")
@click.pass_obj
def update(session: Session, period: str, yes: bool, fail_on_reject: bool) -> int:
    """Learn PERIOD without forgetting the others.

    Ingest, rehearse, importance, train, evaluate, gate, release.

    Killed, it goes on when it is run again; finished, it is returned as it was.

    \b
    Examples: updater update 2026-04
              updater update 2026-04 --set regularizer.strength=10
    """
    from updater import outcome, pipeline

    workspace = session.workspace()
    with workspace.lock():
        done = pipeline.update(workspace, period, approve=yes)
    answer = outcome.update(workspace, done)
    session.answer(answer, lambda console: tables.update(console, workspace, done))
    return EXIT_NOT_ACCEPTED if fail_on_reject and answer["verdict"] != "accepted" else 0


@app.command()
@click.argument("name")
@click.option("--update", "update_id", metavar="ID", help="The update that the step belongs to.")
@click.option("--period", metavar="P", help="For ingest: the period to open an update for.")
@click.option(
    "--partition", metavar="KEY", help="For ingest: an Airflow partition key, which names one."
)
@click.option(
    "--mix-versions", is_flag=True, help="Also where another version of updater opened the update."
)
@click.pass_obj
def step(
    session: Session,
    name: str,
    update_id: str | None,
    period: str | None,
    partition: str | None,
    mix_versions: bool,
) -> None:
    """Run one step of an update, as Airflow does.

    `step ingest` opens the update and names its ID; then rehearse, importance, train, evaluate,
    gate and release take it. Every step may be run again at any time. It waits while another
    command is at work in the workspace.

    \b
    Examples: updater step ingest --period 2026-04
              updater step train --update 2026-04-1a2b3c4d
    """
    from updater import opening, outcome, pipeline

    _check_step(name, ("ingest", *pipeline.STEPS))
    workspace = session.workspace()
    with workspace.lock(wait=True):
        if name == "ingest":
            if update_id or bool(period) == bool(partition):
                raise InputError(
                    "step ingest opens an update",
                    "it takes exactly one of --period and --partition",
                    "updater step ingest --period P",
                )
            chosen = period or workspace.periods.for_partition(str(partition))
            ticked = period is None and partition != chosen  # the partition is a time
            opened = opening.open_update(workspace, chosen, is_scheduled=ticked)
            result: dict[str, Any] = {"datasets": opened.config["datasets"]}
        elif not update_id or period or partition:
            raise InputError(
                f"step {name} needs the update that it belongs to",
                "`updater step ingest --period P` names it",
                f"updater step {name} --update ID",
            )
        else:
            result = pipeline.run_step(workspace, name, update_id, mix_versions=mix_versions)
            opened = workspace.ledger.update(update_id)
            result = outcome.step(workspace, opened, name, result)
    answer = {**outcome.update(workspace, opened), "step": name, **result}
    session.answer(answer, lambda console: tables.step(console, opened, name, result))


@app.command()
@click.argument("period")
@reason_option
@click.pass_obj
def skip(session: Session, period: str, reason: str) -> None:
    """Pass over PERIOD: it is due no more.

    For one that has no rows. `updater update PERIOD` still learns it, should they come.

    \b
    Example: updater skip 2026-04 --reason "the shop was closed"
    """
    from updater import skip as passing

    event = passing.skip(session.workspace(), period, reason=reason)
    answer = {"period": period, "skipped": True, "actor": event.actor, "reason": event.reason}
    session.answer(
        answer,
        lambda console: console.print(
            f"Period {period} is skipped, by {event.actor}: {event.reason}", markup=False
        ),
    )


@app.command()
@click.argument("update")
@reason_option
@click.pass_obj
def abandon(session: Session, update: str, reason: str) -> None:
    """Give up an unfinished UPDATE.

    It goes on no more, and its large files go. What it has ingested stays: the same command begins
    another update.

    \b
    Example: updater abandon 2026-04-1a2b3c4d --reason "the labels were wrong"
    """
    from updater import abandon as giving_up

    workspace = session.workspace()
    with contextlib.ExitStack() as held:
        _hold(workspace, update, held)
        event = giving_up.abandon(workspace, update, reason=reason)
    answer = {"update": update, "abandoned": True, "actor": event.actor, "reason": event.reason}
    session.answer(
        answer,
        lambda console: console.print(
            f"Update {update} is abandoned; what it ingested stays.", markup=False
        ),
    )


def _hold(workspace: "Workspace", update: str, held: contextlib.ExitStack) -> None:
    """The workspace's lock is held. Raises: UpdateError: it is another command's."""
    try:
        held.enter_context(workspace.lock())
    except UpdateError as error:
        raise UpdateError(f"update {update} can't be abandoned now: {error}") from error


def _check_step(name: str, steps: Sequence[str]) -> None:
    if name not in steps:
        raise InputError(
            f"there is no step {name!r}",
            f"the steps are {', '.join(steps)}",
            did_you_mean(name, steps) or "name one of them",
        )


@app.command()
@click.pass_obj
def due(session: Session) -> None:
    """List the periods that are closed and not learnt.

    \b
    Example: updater due --json
    """
    from updater import outcome

    found = outcome.due(session.workspace())
    session.answer({"due": found}, lambda console: tables.names(console, found, "Nothing is due."))
