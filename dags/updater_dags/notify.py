"""Messages of failures and verdicts, by Airflow's own notifiers.

UPDATER_DAG_NOTIFY is a list with spaces between: `smtp:CONNECTION:TO`, `slack:CONNECTION:CHANNEL`,
`slack-webhook:CONNECTION`, where CONNECTION is an Airflow connection's id. A notifier whose
provider is not installed is named in the DAG's description, and the updates run without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from updater_dags.approval import score_cells

SAID = {"accepted": "was accepted", "rejected": "was rejected", "review": "waits for review"}
"""Of an update, by the gate's verdict."""

Notifier = Any  # airflow.sdk.BaseNotifier, whose import costs what no DAG without one should pay
Make = Callable[[str, str], Notifier]

FAILED = (
    "{{ dag.dag_id }}: {{ ti.task_id }} failed",
    (
        "The task {{ ti.task_id }} of {{ dag.dag_id }} failed and is not tried again.\n"
        "Run: {{ run_id }}\n{{ exception or '' }}\nLog: {{ ti.log_url }}"
    ),
)
JUDGED = (
    "{{ dag.dag_id }}: {{ ti.xcom_pull(task_ids='gate')['verdict'] }}, "
    "{{ ti.xcom_pull(task_ids='gate')['update'] }}",
    "{{ told_verdict(ti.xcom_pull(task_ids='gate'), ti.log_url) }}",
)
PLACES = {
    "smtp": ("airflow.providers.smtp.notifications.smtp", "SmtpNotifier"),
    "slack": ("airflow.providers.slack.notifications.slack", "SlackNotifier"),
    "slack-webhook": (
        "airflow.providers.slack.notifications.slack_webhook",
        "SlackWebhookNotifier",
    ),
}
FORMS = {
    "smtp": "smtp:CONNECTION:TO",
    "slack": "slack:CONNECTION:CHANNEL",
    "slack-webhook": "slack-webhook:CONNECTION",
}


class Notices:
    """What `given` asks for. `problem`: in words what of it can't be had."""

    def __init__(self, given: str) -> None:
        self._makes: list[Make] = []
        problems = []
        for entry in given.split():
            try:
                self._makes.append(_make(entry))
            except ValueError as error:
                problems.append(f"{error}.")
        self.problem = " ".join(problems)

    def of_failure(self) -> list[Notifier]:
        """For a task's on_failure_callback; new ones each time, for a notifier sends what it sent
        the first time."""
        return [make(*FAILED) for make in self._makes]

    def of_verdict(self) -> list[Notifier]:
        """For the gate's on_success_callback."""
        return [make(*JUDGED) for make in self._makes]


def told_verdict(gate: Mapping[str, Any], log_url: str) -> str:
    """The message of a verdict. Its text comes by a macro: what stands in it is no template."""
    said = SAID[gate["verdict"]]
    lines = [f"Update {gate['update']} of period {gate.get('period', '?')} {said}.", ""]
    lines += [f"- {reason}" for reason in gate.get("reasons", [])]
    rows = [score_cells(*one) for one in (gate.get("scores") or {}).items()]
    if rows:
        rows.insert(0, ["period", "examples", "deployed", "candidate", "change"])
        widths = [max(len(row[n]) for row in rows) for n in range(5)]
        lines += [
            "",
            *(
                "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ),
        ]
    lines += ["", *(f"{name}: {url}" for name, url in (gate.get("links") or {}).items())]
    if gate.get("approval") == "needed":
        lines += ["A person has to answer: Required actions of this run, beside its log."]
    return "\n".join([*lines, f"Log: {log_url}"])


MACROS = {"told_verdict": told_verdict}


def _make(entry: str) -> Make:
    """A function of subject and text, both templates.

    Raises:
        ValueError: it is malformed, or its provider is not installed.
    """
    kind, _, rest = entry.partition(":")
    connection, _, target = rest.partition(":")
    where = f"notifier {entry}"
    if kind not in PLACES:
        raise ValueError(f"{where}: it must be one of {', '.join(FORMS.values())}")
    if not connection or bool(target) != (FORMS[kind].count(":") == 2):
        raise ValueError(f"{where}: it must be {FORMS[kind]}")
    module, name = PLACES[kind]
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        package = f"apache-airflow-providers-{module.split('.')[2]}"
        raise ValueError(f"{where}: {package} is not installed ({error})") from None
    return partial(_KINDS[kind], found, connection, target)


def _mail(found: Any, connection: str, to: str, subject: str, text: str) -> Notifier:
    escaped = f"{{% filter escape %}}{text}{{% endfilter %}}"
    html = f"<pre>{escaped}</pre>"
    return found(smtp_conn_id=connection, to=to, subject=subject, html_content=html)


def _slack(found: Any, connection: str, channel: str, subject: str, text: str) -> Notifier:
    return found(slack_conn_id=connection, channel=channel, text=_for_slack(subject, text))


def _webhook(found: Any, connection: str, target: str, subject: str, text: str) -> Notifier:
    return found(slack_webhook_conn_id=connection, text=_for_slack(subject, text))


def _for_slack(subject: str, text: str) -> str:
    """Slack reads &, < and > as its own signs, and no other escapes."""
    chain = "replace('&', '&amp;')|replace('<', '&lt;')|replace('>', '&gt;')"
    return f"{{% filter {chain} %}}*{subject}*\n```{text}```{{% endfilter %}}"


_KINDS = {"smtp": _mail, "slack": _slack, "slack-webhook": _webhook}
