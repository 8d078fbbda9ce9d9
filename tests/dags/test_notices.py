"""Messages of failures and verdicts, by Airflow's own notifiers, to a real SMTP server and to a
server in the place of Slack's webhook and of its API, both on this machine."""

import email
import email.policy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from aiosmtpd.controller import Controller

from updater.local import free_port

GATE = {
    "update": "u-7",
    "period": "2026-04",
    "verdict": "review",
    "reasons": ["2026-01: can't tell <b>&", "{{ 6 * 7 }} is no template"],
    "approval": "none",
    "links": {"run": "http://m/#/runs/r"},
    "scores": {"2026-01": {"base": 0.9, "candidate": 0.875, "num_examples": 200}},
}


class Mailbox:
    """Keeps what it is handed."""

    def __init__(self):
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        policy = email.policy.default
        self.messages.append(email.message_from_bytes(envelope.content, policy=policy))
        return "250 OK"


class Slack(BaseHTTPRequestHandler):
    """Answers as Slack's webhook and its API do; keeps path, token and content of each post."""

    posts: ClassVar[list] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append((self.path, self.headers["Authorization"], json.loads(body)))
        answer = b"ok" if self.path == "/hook" else b'{"ok": true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def told(make_airflow, tmp_path_factory):
    """Mails and Slack's texts after a verdict, after a failure, and where mail can't be sent."""
    mailbox, slack = Mailbox(), ThreadingHTTPServer(("127.0.0.1", 0), Slack)
    port = free_port(0)
    smtp = Controller(mailbox, hostname="127.0.0.1", port=port)
    smtp.start()
    threading.Thread(target=slack.serve_forever, daemon=True).start()
    plain = {"disable_ssl": True, "disable_tls": True, "from_email": "updater@example.com"}
    connections = {
        name: json.dumps(
            {"conn_type": "smtp", "host": "127.0.0.1", "port": n, "extra": {**plain, **more}}
        )
        for name, n, more in (("MAIL", port, {}), ("DEAD", 1, {"retry_limit": 1, "timeout": 1}))
    }
    page = f"http://127.0.0.1:{slack.server_port}"
    hook = {"conn_type": "slackwebhook", "password": f"{page}/hook"}
    api = {"conn_type": "slack", "password": "xoxb-1", "extra": {"base_url": f"{page}/api/"}}
    environ = {
        **{f"AIRFLOW_CONN_{name}": value for name, value in connections.items()},
        "AIRFLOW_CONN_HOOK": json.dumps(hook),
        "AIRFLOW_CONN_BOT": json.dumps(api),
        "UPDATER_DAG_NOTIFY": "smtp:mail:ml@example.com,oncall@example.com slack-webhook:hook "
        "slack:bot:#on-call",
        "UPDATER_DAG_RETRIES": "0",
    }
    fine = {"answers": {"gate": json.dumps(GATE)}}
    broken = {"exits": {"train": [1]}}
    dead = {**environ, "UPDATER_DAG_NOTIFY": "smtp:dead:ml@example.com"}
    runs = [
        {"environ": environ, "conf": {"period": "2026-04"}, "fake": {"gate": {}, **fine}},
        {"environ": environ, "conf": {"period": "2026-04"}, "fake": {"gate": {}, **broken}},
        {"environ": dead, "conf": {"period": "2026-04"}, "fake": {"gate": {}, **fine}},
    ]
    try:
        airflow = make_airflow(tmp_path_factory.mktemp("notices"))
        found = airflow.ask("many_runs.py", runs, seconds=280)
    finally:
        smtp.stop()
        slack.shutdown()
        slack.server_close()
    return {"runs": found["runs"], "mails": mailbox.messages, "slack": Slack.posts}


def test_one_message_for_a_verdict_and_one_for_a_failure(told):
    assert [run["state"] for run in told["runs"]] == ["success", "failed", "success"]
    subjects = [mail["Subject"] for mail in told["mails"]]
    assert subjects == ["model_update: review, u-7", "model_update: train failed"]
    assert {mail["From"] for mail in told["mails"]} == {"updater@example.com"}
    assert {mail["To"] for mail in told["mails"]} == {"ml@example.com, oncall@example.com"}


def test_a_verdict_has_reasons_scores_and_links_and_is_no_template(told):
    body = text_of(told["mails"][0])
    assert "Update u-7 of period 2026-04 waits for review." in body
    assert "2026-01: can&#39;t tell &lt;b&gt;&amp;" in body
    assert "{{ 6 * 7 }} is no template" in body
    assert "2026-01  200       90.0 %    87.5 %     -2.5" in body
    assert "run: http://m/#/runs/r" in body
    assert "Log: http" in body


def test_a_failure_names_task_error_and_log(told):
    body = text_of(told["mails"][1])
    assert "The task train of model_update failed and is not tried again." in body
    assert "task train: `updater step train --update u-1` failed (exit 1)" in body
    assert "What it finished is kept" in body
    assert "Log: http" in body


def test_slack_gets_the_same_with_its_own_escapes(told):
    verdict, failure = (what["text"] for path, _, what in told["slack"] if path == "/hook")
    assert verdict.startswith("*model_update: review, u-7*\n```Update u-7")
    assert "2026-01: can't tell &lt;b&gt;&amp;" in verdict
    assert failure.startswith("*model_update: train failed*\n")


def test_a_channel_gets_what_the_webhook_gets(told):
    hook = [what["text"] for path, _, what in told["slack"] if path == "/hook"]
    api = [post for post in told["slack"] if post[0] == "/api/chat.postMessage"]
    assert [what["text"] for _, _, what in api] == hook
    assert {(token, what["channel"]) for _, token, what in api} == {("Bearer xoxb-1", "#on-call")}


def test_a_server_that_is_down_fails_no_task(told):
    assert {state for state, _ in told["runs"][2]["tasks"].values()} == {"success", "skipped"}


def text_of(mail):
    return mail.get_body(("html",)).get_content()
