"""Commands for a first look: the demo, and the services behind it on one machine."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from updater.cli import tables
from updater.cli.app import Session, app

if TYPE_CHECKING:
    from updater.demo.tour import Tour


@app.command()
@click.argument(
    "folder", type=click.Path(path_type=Path), default="demo-workspace", metavar="[DIR]"
)
@click.pass_obj
def demo(session: Session, folder: Path) -> None:
    """Take the tour on tickets that drift by month.

    A first model, a good update, a bad one, a rollback, a report. Makes a
    workspace in DIR (demo-workspace by default); a few minutes on two cores.

    \b
    Example: updater demo
    """
    from updater.demo import tour

    taken = tour.run(
        folder, progress=not session.quiet, say=lambda text: click.echo(text, err=True)
    )
    session.answer(_answer(taken), lambda console: _show(console, taken))


@app.command()
@click.option(
    "--airflow-port",
    default=8080,
    metavar="PORT",
    help="8080 by default; the next free one where it is taken.",
)
@click.option("--mlflow-port", default=5000, metavar="PORT", help="5000 by default; likewise.")
@click.pass_obj
def up(session: Session, airflow_port: int, mlflow_port: int) -> int:
    """Start Airflow and MLflow until Ctrl-C.

    For a first look and for development. Prints both addresses and the login.

    \b
    Example: updater up --workspace demo-workspace
    """
    from updater import local

    workspace = session.workspace()
    return local.up(
        workspace.root,
        mlflow_uri=workspace.mlflow_uri,
        mlflow_artifacts=workspace.mlflow_artifacts,
        airflow_port=airflow_port,
        mlflow_port=mlflow_port,
    )


def _answer(taken: "Tour") -> dict[str, Any]:
    return {
        "workspace": str(taken.workspace.root),
        "scratch": taken.first,
        "update": taken.careful,
        "fine_tuning_alone": taken.careless,
        "rollback": taken.rolled_back,
        "report": str(taken.report),
    }


def _show(console: Console, taken: "Tour") -> None:
    from updater import outcome
    from updater.demo.tour import mean_accuracy

    tables.score_matrix(
        console, outcome.score_matrix(taken.workspace), taken.rolled_back["deployed"]
    )

    def line(answer: dict[str, Any]) -> str:
        before, after = (mean_accuracy(answer, w, past=True) for w in ("base", "candidate"))
        new = mean_accuracy(answer, "candidate", past=False)
        return (
            f"past months {tables.percent(before)} -> {tables.percent(after)}, "
            f"{answer['period']} {tables.percent(new)}: {answer['verdict']}"
        )

    folder, ours = taken.workspace.root, _command("updater")
    console.print("\n[bold]What this showed[/]")
    console.print(f"  EWC + rehearsal:    {line(taken.careful)}")
    console.print(f"  fine-tuning alone:  {line(taken.careless)}")
    deployed, previous = taken.rolled_back["deployed"], taken.rolled_back["previous"]
    console.print(f"  rollback:           version {deployed} is deployed again, was {previous}")
    console.print("\n[bold]Look further[/]")
    console.print(f"  the report          {taken.report}", soft_wrap=True)
    console.print(f"  the history         {ours} --workspace {folder} history", soft_wrap=True)
    console.print(
        f"  a smaller version   {ours} --workspace {folder} compress {deployed} --quantize int8",
        soft_wrap=True,
    )
    console.print(
        f"  MLflow              {_command('mlflow')} ui "
        f"--backend-store-uri {taken.workspace.mlflow_uri}",
        soft_wrap=True,
    )
    console.print(f"  Airflow and MLflow  {ours} --workspace {folder} up", soft_wrap=True)


def _command(name: str) -> str:
    """How to type the command: its name where the shell finds ours by it, else its path."""
    ours = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found and Path(found) == ours else str(ours)
