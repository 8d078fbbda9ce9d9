"""What a person is asked about an update, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

Context = Any
LINKS = {"run": "the run in MLflow", "report": "the report"}


class Approval(ApprovalOperator):
    """ApprovalOperator whose answer reaches the tasks after it.

    Airflow 3.3's keeps it to itself on Reject: it skips `approve` by an exception, so that what it
    would return becomes no XCom.
    """

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep the answer, and go on."""
        fields = ("chosen_options", "params_input", "responded_by_user")
        context["ti"].xcom_push(key="answer", value={name: event.get(name) for name in fields})
        return super().execute_complete(context, event)


def approve_arguments(context: Context) -> tuple[list[str], str]:
    """Approve the update, where a person said so.

    One who has decided on the command line marks the question as done: there is no answer then.
    """
    approval = context["ti"].xcom_pull(task_ids="approval", key="answer")
    if approval is None:
        raise AirflowSkipException("nobody answered in Airflow: the task approval was marked")
    who, reason = answer_of(approval)
    return ["approve", update_of(context), "--reason", reason], who


def reject_arguments(context: Context) -> tuple[list[str], str]:
    """Reject the update, where a person said so, or the time limit and nobody before.

    The trigger rule lets this task run after a skipped `approve`, which is what Reject leaves, and
    what is left where nobody was asked.
    """
    approval = context["ti"].xcom_pull(task_ids="approval", key="answer")
    if approval is None:
        raise AirflowSkipException("nobody had to be asked")
    if approval["chosen_options"] != [ApprovalOperator.REJECT]:
        raise AirflowSkipException("the update was approved")
    who, reason = answer_of(approval)
    undecided = [] if who else ["--if-undecided"]  # the command line is another place to decide
    return ["reject", *undecided, update_of(context), "--reason", reason], who


def update_of(context: Context) -> str:
    """The update that the run is about."""
    return str(context["ti"].xcom_pull(task_ids="ingest")["update"])


def answer_of(approval: Mapping[str, Any]) -> tuple[str, str]:
    """Who answered ("" when time ran out and the default did) and the reason to record."""
    user = approval.get("responded_by_user") or {}
    who = user.get("name") or user.get("id") or ""
    if not who:
        return "", "nobody answered in time in Airflow, where the default answer is Reject"
    words = ((approval.get("params_input") or {}).get("reason") or "").strip()
    chosen = approval["chosen_options"][0]
    return who, f"{chosen} was the answer of {who} in Airflow" + (f": {words}" if words else "")


def question(gate: Mapping[str, Any]) -> str | None:
    """What a person is asked, in Markdown, or None when the gate needs nobody."""
    if gate.get("approval") != "needed":
        return None
    text = [f"The gate's verdict on update `{gate.get('update', '?')}`: **{gate['verdict']}**.", ""]
    text += [f"* {reason}" for reason in gate.get("reasons", [])]
    scores = gate.get("scores") or {}
    if scores:
        text += ["", "| period | examples | deployed | candidate | change |"]
        text += ["|---|---:|---:|---:|---:|"]
        text += [f"| {' | '.join(score_cells(*one))} |" for one in scores.items()]
    links = gate.get("links") or {}
    shown = [f"[{words}]({links[name]})" for name, words in LINKS.items() if links.get(name)]
    if shown:
        text += ["", f"Look at {' and '.join(shown)}."]
    return "\n".join(
        [*text, "", "*Approve* promotes the candidate, *Reject* keeps what is deployed."]
    )


def score_cells(period: str, score: Mapping[str, Any]) -> list[str]:
    """Period, examples, deployed, candidate, change."""
    base, candidate = score.get("base"), score.get("candidate")
    shown = ["" if value is None else f"{100 * value:.1f} %" for value in (base, candidate)]
    change = ""
    if base is not None and candidate is not None:
        change = f"{100 * (candidate - base):+.1f}"
    return [period, str(score.get("num_examples", "")), *shown, change]
