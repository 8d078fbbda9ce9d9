"""The command that compares methods over a stream of periods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from updater.cli import tables
from updater.cli.app import EXIT_FAILED, Session, app
from updater.errors import InputError

if TYPE_CHECKING:
    from updater.study.conduct import Conducted
    from updater.study.plan import Study
    from updater.study.pool import Failed
    from updater.study.tabulated import Arm
    from updater.workspace import Workspace


@app.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--only", multiple=True, metavar="ARM", help="Run this arm alone; may be repeated.")
@click.option("--quick", is_flag=True, help="Run the short form that FILE's [quick] describes.")
@click.option("--list", "as_list", is_flag=True, help="Name the arms and do nothing.")
@click.option("--first", is_flag=True, help="Make data and first models, and run no arm.")
@click.pass_obj
def study(
    session: Session, file: Path, only: tuple[str, ...], quick: bool, as_list: bool, first: bool
) -> int:
    """Compare methods over a stream of periods.

    Each arm of FILE starts from the same first model and learns period after period, with every
    seed. Killed, it goes on when it is run again. Nothing is released.

    Several machines: `--first` once, then `--only ARM` for each of `--list` at the same time, and
    FILE alone for the report.

    \b
    Examples: updater study docs/studies/clinc.toml
              updater study docs/studies/clinc.toml --only ewc --only rehearsal+ewc
    """
    from updater.study.conduct import conduct
    from updater.study.finish import finish

    if as_list + first + bool(only) > 1:
        raise InputError(
            "--list, --first and --only", "each does another part of the work", "give one of them"
        )
    workspace = session.workspace()
    if as_list:
        return _list(session, workspace, file, quick)
    if first:
        return _first(session, workspace, file, quick)
    done = conduct(workspace, file, quick=quick, only=only)
    answer = finish(workspace, done)
    session.answer(answer, lambda console: _show(console, done))
    if session.as_json:  # else it stands below the table
        for sentence in _stopped(_arms(done)):
            click.echo(f"updater: {sentence}", err=True)
    return _failed(session, done.failed)


def _list(session: Session, workspace: "Workspace", path: Path, quick: bool) -> int:
    """The arms by name."""
    from updater.study import file

    study = file.read(path, workspace.settings, quick=quick)
    arms = [arm.name for arm in study.arms]
    answer = {"study": study.name, "arms": arms, "seeds": list(study.seeds)}
    session.answer(answer, lambda console: tables.names(console, arms, ""))
    return 0


def _first(session: Session, workspace: "Workspace", path: Path, quick: bool) -> int:
    """The first models are there."""
    from updater.study.conduct import prepare

    failed = prepare(workspace, path, quick=quick)
    answer = {"failed": [{"title": one.title, "why": one.reason} for one in failed]}
    session.answer(
        answer,
        lambda console: console.print("Not all first models are there." if failed else "Ready."),
    )
    return _failed(session, failed)


def _failed(session: Session, failed: "Sequence[Failed]") -> int:
    """Names what failed; the exit code."""
    for one in failed:
        click.echo(f"updater: {one.title}: {one.reason}", err=True)
        if session.traceback:
            click.echo(one.why, err=True)
    return EXIT_FAILED if failed else 0


def _show(console: Console, done: "Conducted") -> None:
    from updater.study.report.words import at_last_alone, judged, none_deployed, seeds_of

    shown = Table(
        "arm", "seeds", "all periods", "new", "worst forgetting", "steps", "seconds", box=None
    )
    names = ("final_average_accuracy", "new_accuracy", "worst_forgetting", "steps", "seconds")
    arms = _arms(done)
    for arm in arms:
        estimates = [arm.estimate(name) for name in names]
        means = [None if found is None else found.mean for found in estimates]
        accuracies = [tables.percent(mean) for mean in means[:3]]
        costs = ["–" if mean is None else f"{mean:,.0f}" for mean in means[3:]]
        shown.add_row(arm.name, seeds_of(arm), *accuracies, *costs)
    console.print(shown)
    left = "Records" if done.is_part else "Tables, plots and records"
    for sentence in (
        *_stopped(arms),
        *((late,) if (late := at_last_alone(arms)) else ()),
        *(sentence for arm in arms if (sentence := judged(arm))),
        *((none,) if (none := none_deployed(arms)) else ()),
        *_gate_followed(done.study),
        f"Means over the seeds that finished. {left}: {done.folder}",
    ):
        console.print(sentence, markup=False, soft_wrap=True)


def _arms(done: "Conducted") -> "list[Arm]":
    from updater.study.tabulated import Arm

    return [
        Arm(one.name, tuple(run for run in done.runs if run.arm == one.name))
        for one in done.study.arms
    ]


def _stopped(arms: "Sequence[Arm]") -> list[str]:
    """Which runs came to no end, and why: they diverged, or their worker failed."""
    from updater.study.report.words import stopped

    return [sentence for arm in arms for sentence in stopped(arm)]


def _gate_followed(study: "Study") -> list[str]:
    """What else is to say of a replay's verdicts."""
    if study.replay is None or study.replay.follow_gate:
        return []
    return ["The gate was not followed: every update was deployed, whatever its verdict."]
