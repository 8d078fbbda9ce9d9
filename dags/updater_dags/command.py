"""The operator of all tasks that do something: one `updater` command."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from updater_dags.child import Child, find_executable
from updater_dags.workspaces import Workspace

Context = Any
Arguments = Callable[[Context], tuple[Sequence[str], str]]
BAD_INPUT = 2  # the exit code that says: no retry can help
MOST_CHARACTERS = 200  # of a strange answer, in a message


class UpdaterCommand(BaseOperator):
    """One `updater` command in a process of its own; its JSON answer is the task's XCom.

    `arguments` makes the command's arguments and the name of who is acting ("" for nobody in
    particular) out of the task's context. `item`: what a mapped task is given. `take`: the key of
    the answer whose value alone is the XCom. Exit code 2 (bad input) fails without a retry, every
    other one with.
    """

    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        workspace: Workspace,
        arguments: Arguments,
        item: Any = None,
        take: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.arguments = arguments
        self.item = item
        self.take = take
        self.child: Child | None = None

    def execute(self, context: Context) -> Any:
        """Run the command; its answer, or what `take` names of it."""
        found = self.ask(context)
        return found[self.take] if self.take else found

    def ask(self, context: Context) -> dict[str, Any]:
        """The command's answer.

        Raises:
            AirflowFailException: the command can't be run, or refused its input.
            AirflowException: it failed, or answered otherwise than with a JSON object.
        """
        if self.workspace.problem:
            raise AirflowFailException(self.workspace.problem)
        arguments, actor = self.arguments(context)
        folder = self.workspace.folder
        command = [find_executable(), "--workspace", folder, "--json", *arguments]
        self.log.info("$ %s", shlex.join(command))
        actor = actor or os.environ.get("UPDATER_ACTOR") or "airflow"
        try:
            self.child = Child(command, {**_environment(), "UPDATER_ACTOR": actor})
        except OSError as error:
            raise AirflowFailException(
                f"{command[0]} can't be started ({error.strerror}). Install the package where the "
                "workers run, or set UPDATER_EXECUTABLE."
            ) from error
        what = f"task {self.task_id}: `{shlex.join(['updater', *arguments])}`"
        return answer(what, *self.child.run(self.log))

    def on_kill(self) -> None:
        """Airflow stops the task: the command goes with it."""
        if self.child is not None:
            self.child.stop(self.log)


def _environment() -> dict[str, str]:
    """Without what is Airflow's: training code need not be able to reach its database or broker."""
    return {key: text for key, text in os.environ.items() if not key.startswith("AIRFLOW_")}


def answer(what: str, code: int, lines: Sequence[str]) -> dict[str, Any]:
    """The last line of stdout of a command that ended with this code: a JSON object. `what`: task
    and command."""
    if code == BAD_INPUT:
        raise AirflowFailException(
            f"{what} refused its input (exit 2); its last line in the log above says why. It is "
            "not tried again, for only a change helps: mend that, and clear the task."
        )
    if code:
        raise AirflowException(
            f"{what} failed (exit {code}); its last line in the log above says why. What it "
            "finished is kept: once that is mended, clear the task, and it goes on from there."
        )
    last = lines[-1] if lines else ""
    try:
        found = json.loads(last)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise AirflowException(
            f"{what} wrote {last[:MOST_CHARACTERS]!r} as its last line of stdout, which must be a "
            "JSON object. UPDATER_EXECUTABLE has to be an `updater` of the DAGs' version, or a "
            "script around it that prints nothing after it: mend that, and clear the task."
        )
    return found


def person_of(context: Context) -> str:
    """Who started the run by hand, as far as Airflow knows; "" where nobody did."""
    return getattr(context["dag_run"], "triggering_user_name", None) or ""
