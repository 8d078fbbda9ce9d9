"""Commands that decide by hand what is deployed. They import no torch and wait for no training."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from updater.cli import tables
from updater.cli.app import AT_NIGHT, Session, app, reason_option

if TYPE_CHECKING:
    from rich.console import Console

    from store.ledger import Update
    from updater.release import Check, Release
    from updater.workspace import Workspace

Done = TypeVar("Done")


def _decide(workspace: "Workspace", verb: Callable[..., Done], *what: str, **more: Any) -> Done:
    """A verb of `updater.release`, done in the workspace by whoever is acting."""
    return verb(workspace.ledger, workspace.aliases, *what, actor=workspace.actor, **more)


def _deploy(
    session: Session,
    workspace: "Workspace",
    verb: "Callable[..., Release]",
    *what: str,
    check: "Check",
    **more: Any,
) -> None:
    """As `_decide`, of a version of which `check` says that its checkpoint is there; and the answer
    is given, with those updates that waited and can be approved no more."""
    waited = _waiting(workspace)
    done = _decide(workspace, verb, *what, check=check, **more)
    still = _waiting(workspace) if waited else None
    others = []
    if waited and still is not None:
        lapsed = (waited[one] for one in waited if one not in still)
        others = [update for update in lapsed if update.candidate != done.event.version]
    session.answer(*tables.released(workspace, done, others))


def _waiting(workspace: "Workspace") -> "dict[str, Update] | None":
    """What waits for approval, by its id; None where it can't be told: no release waits for what is
    only told beside it."""
    from store.errors import StoreError
    from updater import release

    ledger = workspace.ledger
    try:
        return {one: ledger.update(one) for one in release.awaiting_approval(ledger)}
    except StoreError:
        return None


def _check_whole(workspace: "Workspace") -> "Check":
    from updater import whole

    return partial(whole.check, workspace.checkpoints)


def _check_way_back(workspace: "Workspace") -> "Check":
    """As `_check_whole`, for whoever rolls back: another way back is named."""
    from updater import whole

    return partial(whole.check_for_rollback, workspace.checkpoints, workspace.ledger)


def _dry_run(
    workspace: "Workspace", session: Session, verb: str, find: Callable[[], str], check: "Check"
) -> None:
    """What a release would deploy, and after which event it is asked for: that is read before all
    else, for whoever releases while the target is found and looked at has released since."""
    last = workspace.ledger.last_release()
    target = find()
    check(workspace.ledger.model_version(target))
    deployed = last.version if last else None
    said = f"Version {deployed} is deployed; a {verb} would deploy {target}."
    if target == deployed:
        said = (
            f"Version {deployed} is deployed already; a {verb} would change nothing but MLflow's "
            "aliases, where they have not followed."
        )
    session.answer(
        {"deployed": deployed, "target": target, "after": last.id if last else 0},
        lambda console: console.print(said),
    )


after_option = click.option(
    "--after",
    type=click.IntRange(0),
    metavar="EVENT",
    help="Do it only if nobody has released since the event of that id, as --dry-run says it.",
)


@app.command()
@click.argument("version")
@reason_option
@click.option("--force", is_flag=True, help="Against the gate's verdict, or over another base.")
@click.option("--dry-run", is_flag=True, help="Say whether that could be, and no more.")
@after_option
@click.pass_obj
def promote(
    session: Session, version: str, reason: str, force: bool, dry_run: bool, after: int | None
) -> None:
    """Deploy VERSION.

    Refused, unless forced, when the gate did not accept it or when its base is not what is
    deployed.

    \b
    Examples: updater promote 3 --reason "it was the network"
              updater promote 4 --reason "asked for by the owner, against the gate" --force
    """
    from updater import release

    workspace = session.workspace(AT_NIGHT)
    if dry_run:

        def checked() -> str:
            release.check_promotion(workspace.ledger, version, force=force)
            return version

        _dry_run(workspace, session, "promotion", checked, _check_whole(workspace))
        return
    how: dict[str, Any] = {"reason": reason, "force": force, "after": after}
    check = _check_whole(workspace)
    _deploy(session, workspace, release.promote, version, check=check, **how)


@app.command()
@click.option("--to", metavar="VERSION", help="A version that was deployed before.")
@click.option("--dry-run", is_flag=True, help="Say which version that would be, and no more.")
@after_option
@reason_option
@click.pass_obj
def rollback(
    session: Session, to: str | None, dry_run: bool, after: int | None, reason: str
) -> None:
    """Deploy what was deployed before.

    Again, and it walks further back.

    \b
    Examples: updater rollback --reason "wrong answers since noon"
              updater rollback --to 1 --reason "the last good one"
    """
    from updater import release

    workspace = session.workspace(AT_NIGHT)
    if dry_run:
        _dry_run(
            workspace,
            session,
            "rollback",
            lambda: release.rollback_target(workspace.ledger, workspace.aliases, to=to),
            _check_way_back(workspace),
        )
        return
    how: dict[str, Any] = {"to": to, "reason": reason, "after": after}
    _deploy(session, workspace, release.rollback, check=_check_way_back(workspace), **how)


@app.command()
@click.argument("update")
@reason_option
@click.pass_obj
def approve(session: Session, update: str, reason: str) -> None:
    """Deploy the candidate of a waiting UPDATE.

    \b
    Example: updater approve 2026-04-1a2b3c4d --reason "looked at the flips"
    """
    from updater import release
    from updater.steps.publish import publish_decision

    workspace = session.workspace()
    check = _check_whole(workspace)
    _deploy(session, workspace, release.approve, update, check=check, reason=reason)
    publish_decision(workspace, workspace.ledger.update(update))


@app.command()
@click.argument("update")
@reason_option
@click.option("--if-undecided", is_flag=True, help="Leave what was approved or promoted as it is.")
@click.pass_obj
def reject(session: Session, update: str, reason: str, if_undecided: bool) -> None:
    """Turn down the candidate of a waiting UPDATE.

    \b
    Example: updater reject 2026-04-1a2b3c4d --reason "refunds got worse"
    """
    from updater import links, release
    from updater.steps.publish import publish_decision

    workspace = session.workspace()
    is_rejected = _decide(
        workspace, release.reject, update, reason=reason, if_undecided=if_undecided
    )
    decided = workspace.ledger.update(update)
    found = links.of_update(workspace, decided)
    deployed = release.deployed(workspace.ledger)
    answer = {"update": update, "rejected": is_rejected, "deployed": deployed, "links": found}

    def show(console: "Console") -> None:
        said = "Turned down" if is_rejected else "Decided before, which is left as it is"
        console.print(f"{said}; version {deployed} stays deployed.")
        tables.linked(console, found)

    session.answer(answer, show)
    publish_decision(workspace, decided)
