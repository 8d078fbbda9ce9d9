"""The command that makes a smaller version of one."""

from typing import TYPE_CHECKING, Any

import click

from updater.cli import tables
from updater.cli.app import EXIT_NOT_ACCEPTED, Session, app
from updater.errors import InputError
from updater.settings.compression import OF_METHOD, PRUNINGS, REMOVABLE, SCHEMES

if TYPE_CHECKING:
    from rich.console import Console

    from store.ledger import Update
    from updater.workspace import Workspace


@app.command()
@click.argument("version")
@click.option("--method", metavar="NAME", help=f"How what goes is chosen: {', '.join(PRUNINGS)}.")
@click.option("--sparsity", metavar="SHARE", help="How much of it goes, between 0 and 1.")
@click.option("--remove", metavar="WHAT", help=f"What goes: {', '.join(REMOVABLE)}.")
@click.option("--quantize", metavar="SCHEME", help=f"none, {', '.join(SCHEMES)}.")
@click.option("--yes", is_flag=True, help="Promote what the gate accepts without asking a person.")
@click.option("--fail-on-reject", is_flag=True, help="Exit 3 where the gate did not accept.")
@click.pass_obj
def compress(
    session: Session, version: str, yes: bool, fail_on_reject: bool, **given: str | None
) -> int:
    """Make a smaller version of VERSION.

    It is scored on every period that VERSION has learnt, and judged beside it by the gate: no
    period may lose more than gate.margin_fraction. Then it waits for a person. The options take
    the place of the settings of their names in [compression], where there are more.

    Killed, it goes on when it is run again; finished, it is returned as it was.

    \b
    Examples: updater compress 3 --method obd --sparsity 0.5
              updater compress 3 --method reap --remove experts --sparsity 0.25
              updater compress 3 --quantize int8
    """
    from updater import outcome, pipeline
    from updater.config import Option

    session.overrides += tuple(
        Option(f"--{name}", ("compression", name), value)
        for name, value in given.items()
        if value is not None
    )
    workspace = session.workspace()
    _check_of_method(session, workspace.settings.compression.method)
    with workspace.lock():
        done = pipeline.compress(workspace, version, approve=yes)
    answer = outcome.compressed(workspace, done)
    session.answer(answer, lambda console: _show(console, workspace, done, answer))
    return EXIT_NOT_ACCEPTED if fail_on_reject and answer["verdict"] != "accepted" else 0


def _check_of_method(session: Session, method: str) -> None:
    """What was typed of what a method removes is not passed over where there is no method.

    Raises:
        InputError: it would be.
    """
    from updater.config import named_keys

    typed = named_keys(session.overrides)
    idle = [typed["compression", name] for name in OF_METHOD if ("compression", name) in typed]
    if method == "none" and idle:
        raise InputError(
            f'{" and ".join(idle)}: compression.method is "none"',
            "they say what a method removes, and without one nothing is removed",
            f"give --method NAME too ({', '.join(n for n in PRUNINGS if n != 'none')}), or leave "
            f"{'it' if len(idle) == 1 else 'them'} out",
        )


def _show(
    console: "Console", workspace: "Workspace", done: "Update", answer: dict[str, Any]
) -> None:
    from updater import release

    tables.update(console, workspace, done)
    deployed = release.deployed(workspace.ledger)
    if deployed not in (answer["base"], answer["candidate"]):
        console.print(
            f"Version {deployed} is deployed. It can be promoted once version {answer['base']} is, "
            "or with --force."
        )
