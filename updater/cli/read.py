"""Commands that look and change nothing, but for scores that they have to measure first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from updater.cli import tables
from updater.cli.app import AT_NIGHT, EXIT_BAD_INPUT, Session, app, many_periods
from updater.errors import InputError

Table = Callable[[Console, dict[str, Any]], None]


def _tell(session: Session, answer: dict[str, Any], table: Table) -> None:
    """The answer, for people as that table."""
    session.answer(answer, lambda console: table(console, answer))


@app.command()
@click.option("--repair", is_flag=True, help="Move MLflow's aliases to what the ledger says.")
@click.pass_obj
def status(session: Session, repair: bool) -> None:
    """Show what is deployed, due and waiting.

    `consistent` is whether MLflow's aliases agree with the ledger's events. Where something else
    is wrong in the configuration it is shown all the same, with exit code 2.

    \b
    Example: updater status --json
    """
    from updater import outcome, release

    code = 0
    try:
        workspace = session.workspace()
    except InputError:  # which the next line says, or raises
        workspace, code = session.workspace(AT_NIGHT), EXIT_BAD_INPUT
    if repair:
        release.repair(workspace.ledger, workspace.aliases)
    _tell(session, outcome.status(workspace), tables.status)
    raise click.exceptions.Exit(code)


@app.command()
@click.pass_obj
def periods(session: Session) -> None:
    """List the periods with their counts.

    \b
    Example: updater periods
    """
    from updater import outcome

    _tell(session, outcome.periods(session.workspace()), tables.periods)


@app.command()
@click.pass_obj
def scores(session: Session) -> None:
    """Show the accuracy of every version by period.

    \b
    Example: updater scores
    """
    from updater import outcome

    workspace = session.workspace()
    answer = outcome.score_matrix(workspace)
    deployed = outcome.status(workspace)["deployed"] if not session.as_json else None
    session.answer(answer, lambda console: tables.score_matrix(console, answer, deployed))


@app.command()
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="The newest N events only.")
@click.pass_obj
def history(session: Session, last: int | None) -> None:
    """Show who promoted what, when and why.

    \b
    Example: updater history --last 20
    """
    from updater import outcome

    _tell(session, outcome.history(session.workspace(AT_NIGHT), last), tables.history)


@app.command()
@click.argument("version")
@click.pass_obj
def show(session: Session, version: str) -> None:
    """Show one VERSION: lineage, verdict, scores.

    \b
    Example: updater show 3
    """
    from updater import outcome

    _tell(session, outcome.version(session.workspace(AT_NIGHT), version), tables.version)


@app.command()
@click.argument("version")
@many_periods(required=False)
@click.pass_obj
def evaluate(
    session: Session, version: str, periods: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """Score VERSION on periods, with intervals.

    On every versioned period by default; the intervals are at 95 %.

    What has been scored before is not scored again.

    \b
    Example: updater evaluate 3 --periods 2026-01 2026-02
    """
    from updater import outcome, scoring

    workspace = session.workspace()
    with workspace.lock():
        scoring.evaluate(workspace, version, periods + more)
    _tell(session, outcome.evaluation(workspace, version, periods + more), tables.evaluation)


@app.command()
@click.argument("first")
@click.argument("second")
@click.pass_obj
def compare(session: Session, first: str, second: str) -> None:
    """Compare two versions period by period.

    The difference is SECOND's accuracy less FIRST's, with its 95 % interval (Tango 1998), and
    the examples that flipped either way.

    \b
    Example: updater compare 2 3
    """
    from updater import scoring

    _tell(session, scoring.compare(session.workspace(), first, second), tables.comparison)


@app.command()
@click.argument("version")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page goes; report-VERSION.html by default.",
)
@click.pass_obj
def report(session: Session, version: str, output: Path | None) -> None:
    """Write a page on VERSION, with its plots.

    Self-contained HTML: verdict, scores, forgetting, flips, lineage.

    \b
    Example: updater report 3 -o report.html
    """
    from updater import links
    from updater.errors import InputError
    from updater.files import write_text
    from updater.report.collect import collect
    from updater.report.page import render

    workspace = session.workspace()
    path = output or Path(f"report-{version}.html")
    if not path.name or not path.parent.is_dir():
        raise InputError(
            f"--output {path}", "it must be a file in a folder that exists", "name one"
        )
    write_text(path, render(collect(workspace, version)))
    found = links.of_version(workspace, version)
    answer = {"version": version, "report": str(path.resolve()), "links": found}

    def show(console: Console) -> None:
        console.print(f"The report is {path.resolve()}", markup=False)
        tables.linked(console, found)

    session.answer(answer, show)


@app.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.pass_obj
def export(session: Session, version: str, folder: Path) -> None:
    """Copy VERSION's checkpoint to DIR, for serving.

    \b
    Example: updater export 3 ./serving/model
    """
    from updater.errors import InputError

    workspace = session.workspace()
    found = workspace.ledger.model_version(version)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is there already", "an export never overwrites", "name a new folder"
        )
    workspace.checkpoints.verify(found.digest)
    workspace.checkpoints.export(found.digest, folder)
    answer = {"version": version, "folder": str(folder.resolve()), "digest": found.digest}
    session.answer(answer, lambda console: console.print(f"Version {version} is in {folder}"))
