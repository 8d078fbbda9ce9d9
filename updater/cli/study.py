"""The command that compares methods over a stream of periods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from updater.cli import tables
from updater.cli.app import EXIT_FAILED, Session, app

if TYPE_CHECKING:
    from updater.study.conduct import Conducted
    from updater.study.results import Run


@app.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--only", multiple=True, metavar="ARM", help="Run this arm alone; may be repeated.")
@click.option("--quick", is_flag=True, help="Run the short form that FILE's [quick] describes.")
@click.pass_obj
def study(session: Session, file: Path, only: tuple[str, ...], quick: bool) -> int:
    """Compare methods over a stream of periods.

    Each arm of FILE starts from the same first model and learns period after period, with every
    seed. Killed, it goes on when it is run again. Nothing is released.

    \b
    Examples: updater study docs/studies/clinc.toml
              updater study docs/studies/clinc.toml --only ewc --only rehearsal+ewc
    """
    from updater.study.conduct import conduct
    from updater.study.finish import finish

    workspace = session.workspace()
    done = conduct(workspace, file, quick=quick, only=only)
    answer = finish(workspace, done)
    session.answer(answer, lambda console: _show(console, done))
    for failed in done.failed:
        click.echo(f"updater: {failed.title}: {failed.why.splitlines()[0]}", err=True)
        if session.traceback:
            click.echo(failed.why, err=True)
    return EXIT_FAILED if done.failed else 0


def _by_arm(done: "Conducted") -> dict[str, list["Run"]]:
    found: dict[str, list[Run]] = {arm.name: [] for arm in done.study.arms}
    for run in done.runs:
        found[run.arm].append(run)
    return found


def _measure(run: "Run", name: str) -> float | None:
    from updater.study.measures import measures

    found = measures(run)
    return None if found is None else getattr(found, name)


def _show(console: Console, done: "Conducted") -> None:
    shown = Table("arm", "all periods", "new", "worst forgetting", "steps", "seconds", box=None)
    names = ("final_average_accuracy", "new_accuracy", "worst_forgetting", "steps", "seconds")
    for arm, runs in _by_arm(done).items():
        cells = [_mean([_measure(run, name) for run in runs]) for name in names]
        accuracies = [tables.percent(cell) for cell in cells[:3]]
        costs = ["–" if cell is None else f"{cell:,.0f}" for cell in cells[3:]]
        shown.add_row(arm, *accuracies, *costs)
    console.print(shown)
    for run in done.runs:
        if run.failure:
            console.print(f"{run.arm}, seed {run.seed}, stopped at {run.failure}", soft_wrap=True)
    console.print(f"Means over seeds. Tables, plots and records: {done.folder}", soft_wrap=True)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
