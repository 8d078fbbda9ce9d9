"""The update of a model as an Airflow DAG: one task per step, each one `updater` command.

It holds no logic of its own: what a step does is the command's business, and every command may be
run again at any time. Parsed by Airflow's dag-processor and run by its workers; imports Airflow
and the standard library only, so that it can be copied alone into any DAG folder.

Environment: UPDATER_WORKSPACE (the workspace), UPDATER_EXECUTABLE (the `updater` to call),
UPDATER_ACTOR (whose name the history shows, default "airflow"), UPDATER_DAG_RETRIES,
UPDATER_DAG_RETRY_SECONDS, UPDATER_DAG_STEP_HOURS, UPDATER_DAG_GPU_STEP_HOURS,
UPDATER_DAG_GPU_POD_TEMPLATE (a file of the scheduler's), and UPDATER_DAG_START (catch up on every
tick of the schedule since that date).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseOperator, CronPartitionTimetable, Param, chain, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

Context = Any
BAD_INPUT = 2  # the exit code that says: no retry can help
KILL_AFTER_SECONDS = 4  # Airflow follows SIGTERM by SIGKILL after 5 seconds: be done before
DEFAULT_APPROVAL_SECONDS = 7 * 24 * 3600  # as in updater.settings.GateSettings; a test holds them

READ_HERE = (
    ("periods", "schedule"),
    ("periods", "time_zone"),
    ("rehearsal", "policy"),
    ("gate", "approval_timeout_seconds"),
)

ABOUT = """Learns one period of data: **ingest** (validate and version the rows), **rehearse**
(choose old examples to show again), **importance** (how much each weight matters for the past),
**train**, **evaluate** (deployed model and candidate on every period's holdout), **gate** (the
verdict) and **release** (promote what was accepted).

A run started by the schedule learns the period that closed before its partition key. A run
started by hand names its period in the form (`period`).

Where the gate says `review`, or `gate.approval = "manual"`, the run stops at **approval** and
waits for a person. Nobody answering is *Reject*. `importance`, `train` and `evaluate` need the
pool `gpu`: `airflow pools set gpu 1 "one slot per GPU"`."""


def read_configuration(environ: dict[str, str]) -> tuple[dict, str]:
    """The workspace's configuration, and in words what is wrong with it ("" where nothing is)."""
    given = environ.get("UPDATER_WORKSPACE", "").strip()
    if not given:
        return {}, (
            "UPDATER_WORKSPACE is not set. Set it to a workspace's folder for the scheduler, "
            "the dag-processor and the workers."
        )
    path = Path(given) / "updater.toml"
    try:
        return with_environment(tomllib.loads(path.read_text("utf-8")), environ), ""
    except OSError as error:
        problem = f"{path} can't be read ({error.strerror}). Point UPDATER_WORKSPACE at a workspace"
    except tomllib.TOMLDecodeError as error:
        problem = f"{path} is not valid TOML ({error}). Mend it; `updater status` checks it whole"
    except ValueError as error:
        problem = str(error)
    return {}, problem + "."


def with_environment(configuration: dict, environ: dict[str, str]) -> dict:
    """The configuration with what the environment says of the settings that this file reads, as
    `updater` itself reads it."""
    merged = {name: dict(values) for name, values in configuration.items()}
    for section, key in READ_HERE:
        name = f"UPDATER_{section}_{key}".upper()
        value = environ.get(name, "")
        if not value:
            continue
        if not key.endswith("_seconds"):
            merged.setdefault(section, {})[key] = value
        elif value.isdigit():
            merged.setdefault(section, {})[key] = int(value)
        else:
            raise ValueError(f"{name}={value} in the environment: must be a number of seconds")
    return merged


def schedule_of(configuration: dict) -> CronPartitionTimetable | None:
    """The timetable of `[periods] schedule`, whose ticks are the partition keys of the runs."""
    periods = configuration.get("periods", {})
    cron = periods.get("schedule", "").strip()
    zone = periods.get("time_zone", "UTC")
    return CronPartitionTimetable(cron, timezone=zone) if cron else None


def approval_seconds(configuration: dict) -> int:
    """How long a person may take, in seconds: `[gate] approval_timeout_seconds`."""
    return configuration.get("gate", {}).get("approval_timeout_seconds", DEFAULT_APPROVAL_SECONDS)


def find_executable() -> str:
    """The `updater` to call: UPDATER_EXECUTABLE, else beside this Python, else on the PATH."""
    beside = Path(sys.executable).with_name("updater")
    found = os.environ.get("UPDATER_EXECUTABLE") or (beside if beside.exists() else "")
    return str(found or shutil.which("updater") or "updater")


class UpdaterCommand(BaseOperator):
    """One `updater` command in a process of its own; its JSON answer is the task's XCom.

    `arguments` makes the command's arguments and the name of who is acting ("" for nobody in
    particular) out of the task's context. Exit code 2 (bad input) fails without a retry, every
    other one with. The child leads its own session, so that all of its processes can be stopped.
    """

    ui_color = "#e8f1fb"

    def __init__(self, *, arguments: Callable[[Context], tuple[list[str], str]], **kwargs: Any):
        super().__init__(**kwargs)
        self.arguments = arguments
        self.child: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict:
        if PROBLEM:
            raise AirflowFailException(PROBLEM)
        arguments, actor = self.arguments(context)
        workspace = os.environ["UPDATER_WORKSPACE"]
        command = [find_executable(), "--workspace", workspace, "--json", *arguments]
        self.log.info("$ %s", shlex.join(command))
        actor = actor or os.environ.get("UPDATER_ACTOR") or "airflow"
        try:
            code, lines = self._run(command, {**os.environ, "UPDATER_ACTOR": actor})
        except OSError as error:
            raise AirflowFailException(
                f"{command[0]} can't be started ({error.strerror}). Install the package where the "
                "workers run, or set UPDATER_EXECUTABLE."
            ) from error
        return self._answer(code, lines)

    def _run(self, command: list[str], environ: dict[str, str]) -> tuple[int, list[str]]:
        """Exit code and lines of stdout; each line of stderr is logged as it comes."""
        self.child = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        lines: list[str] = []
        reader = threading.Thread(target=collect, args=(self.child.stdout, lines), daemon=True)
        reader.start()
        try:
            for line in self.child.stderr or ():
                self.log.info("%s", line.rstrip())
            reader.join()
            return self.child.wait(), lines
        finally:  # an execution timeout or Ctrl-C raises in the middle of the loop
            if self.child.poll() is None:
                self.on_kill()
                self._outlive()

    def _outlive(self) -> None:
        """Return when the child is gone: this process may end at once, and its timer with it."""
        try:
            self.child.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            signal_group(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def _answer(self, code: int, lines: list[str]) -> dict:
        if code == BAD_INPUT:
            raise AirflowFailException(
                "updater refused its input (exit 2); see its last line above"
            )
        if code:
            raise AirflowException(f"updater failed (exit {code}); what it finished is kept")
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError) as error:
            raise AirflowException("updater's last line of stdout is no JSON object") from error
        return answer

    def on_kill(self) -> None:
        """Ask the child's processes to end, and end them a few seconds later.

        Runs in a signal handler, where waiting for the child could dead-lock with the wait that
        the signal interrupted: so a timer follows up.
        """
        if self.child is None or self.child.poll() is not None:
            return
        self.log.warning("stopping updater, process group %d", self.child.pid)
        signal_group(self.child.pid, signal.SIGTERM)
        timer = threading.Timer(
            KILL_AFTER_SECONDS, signal_group, args=(self.child.pid, signal.SIGKILL)
        )
        timer.daemon = True
        timer.start()


class Approval(ApprovalOperator):
    """ApprovalOperator whose answer reaches the tasks after it.

    Airflow 3.3's keeps it to itself on Reject: it skips `approve` by an exception, so that what it
    would return becomes no XCom.
    """

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        fields = ("chosen_options", "params_input", "responded_by_user")
        context["ti"].xcom_push(key="answer", value={name: event.get(name) for name in fields})
        return super().execute_complete(context, event)


def collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(line.rstrip("\n") for line in stream if line.strip())


def signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def ingest_arguments(context: Context) -> tuple[list[str], str]:
    """Open the update of the period that the run names, by parameter or by partition key."""
    period, partition = context["params"].get("period"), context["dag_run"].partition_key
    if period:
        return ["step", "ingest", "--period", period], ""
    if partition:
        return ["step", "ingest", "--partition", partition], ""
    raise AirflowFailException(
        "this run names no period. Trigger the DAG again with the parameter `period`; "
        "`updater due` lists the periods that have closed and are not yet learnt."
    )


def step_arguments(name: str, context: Context) -> tuple[list[str], str]:
    return ["step", name, "--update", update_of(context)], ""


def approve_arguments(context: Context) -> tuple[list[str], str]:
    who, reason = answer_of(context["ti"].xcom_pull(task_ids="approval", key="answer"))
    return ["approve", update_of(context), "--reason", reason], who


def reject_arguments(context: Context) -> tuple[list[str], str]:
    """Reject the update, where a person or the time limit said so.

    The trigger rule lets this task run after a skipped `approve`, which is what Reject leaves.
    """
    approval = context["ti"].xcom_pull(task_ids="approval", key="answer")
    if approval["chosen_options"] != [ApprovalOperator.REJECT]:
        raise AirflowSkipException("the update was approved")
    who, reason = answer_of(approval)
    return ["reject", update_of(context), "--reason", reason], who


def update_of(context: Context) -> str:
    return context["ti"].xcom_pull(task_ids="ingest")["update"]


def answer_of(approval: dict) -> tuple[str, str]:
    """Who answered ("" when time ran out and the default did) and the reason to record."""
    user = approval.get("responded_by_user") or {}
    who = user.get("name") or user.get("id") or ""
    if not who:
        return "", "nobody answered in time in Airflow, where the default answer is Reject"
    words = ((approval.get("params_input") or {}).get("reason") or "").strip()
    chosen = approval["chosen_options"][0]
    return who, f"{chosen} was the answer of {who} in Airflow" + (f": {words}" if words else "")


def question(gate: dict) -> str | None:
    """What a person is asked, in Markdown, or None when the gate needs nobody."""
    if gate.get("approval") != "needed":
        return None
    text = [f"The gate's verdict on update `{gate.get('update', '?')}`: **{gate['verdict']}**.", ""]
    text += [f"* {reason}" for reason in gate.get("reasons", [])]
    scores = gate.get("scores") or {}
    if scores:
        text += ["", "| period | examples | deployed | candidate | change |"]
        text += ["|---|---:|---:|---:|---:|"]
        text += [score_row(period, score) for period, score in scores.items()]
    return "\n".join(
        [*text, "", "*Approve* promotes the candidate, *Reject* keeps what is deployed."]
    )


def score_row(period: str, score: dict) -> str:
    base, candidate = score.get("base"), score.get("candidate")
    shown = ["" if value is None else f"{100 * value:.1f} %" for value in (base, candidate)]
    change = "" if None in (base, candidate) else f"{100 * (candidate - base):+.1f}"
    return f"| {period} | {score.get('num_examples', '')} | {' | '.join(shown)} | {change} |"


@task.short_circuit(task_id="approval_needed", retries=0)
def approval_needed(ti: Any = None) -> str | None:
    """The question for a person; without one the run ends here and the rest is skipped."""
    return question(ti.xcom_pull(task_ids="gate"))


def hours(name: str, default: float) -> timedelta:
    return timedelta(hours=float(os.environ.get(name) or default))


def start_of(given: str) -> datetime | None:
    """UPDATER_DAG_START, an ISO date: every tick since then gets a run, in order."""
    return datetime.fromisoformat(given).replace(tzinfo=UTC) if given else None


CONFIGURATION, PROBLEM = read_configuration(dict(os.environ))
START = start_of(os.environ.get("UPDATER_DAG_START", ""))
STEP_TIME = hours("UPDATER_DAG_STEP_HOURS", 6)
GPU_STEP = {
    "pool": "gpu",
    "queue": "gpu",
    "execution_timeout": hours("UPDATER_DAG_GPU_STEP_HOURS", 72),
}
if os.environ.get("UPDATER_DAG_GPU_POD_TEMPLATE"):  # KubernetesExecutor knows no queues
    GPU_STEP["executor_config"] = {"pod_template_file": os.environ["UPDATER_DAG_GPU_POD_TEMPLATE"]}
ASKS_THE_MODEL = CONFIGURATION.get("rehearsal", {}).get("policy") in ("hard", "surprise")
STEPS = {
    "rehearse": GPU_STEP if ASKS_THE_MODEL else {},
    "importance": GPU_STEP,
    "train": GPU_STEP,
    "evaluate": GPU_STEP,
    "gate": {},
    "release": {},
}

with DAG(
    dag_id="model_update",
    description=PROBLEM or "Learn one period: fine-tune, evaluate, judge and release the model",
    doc_md=f"**{PROBLEM}**\n\n{ABOUT}" if PROBLEM else ABOUT,
    schedule=schedule_of(CONFIGURATION),
    start_date=START,
    catchup=START is not None,  # the ticks since START that nobody ran are periods to learn
    max_active_runs=1,
    params={
        "period": Param(
            None,
            type=["null", "string"],
            title="Period",
            description="The period to learn, as in `updater periods`. Leave empty only where "
            "the run has a partition key.",
        )
    },
    default_args={
        "owner": "updater",
        "retries": int(os.environ.get("UPDATER_DAG_RETRIES") or 3),
        "retry_delay": timedelta(seconds=float(os.environ.get("UPDATER_DAG_RETRY_SECONDS") or 60)),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": STEP_TIME,
    },
    tags=["updater", "misconfigured"] if PROBLEM else ["updater"],
):
    ingest = UpdaterCommand(task_id="ingest", arguments=ingest_arguments)
    steps = [
        UpdaterCommand(task_id=name, arguments=partial(step_arguments, name), **options)
        for name, options in STEPS.items()
    ]
    approval = Approval(
        task_id="approval",
        subject="May this model be released?",
        body="{{ ti.xcom_pull(task_ids='approval_needed') }}",
        params={"reason": Param("", type="string", title="Reason", description="For the history")},
        defaults=ApprovalOperator.REJECT,
        response_timeout=timedelta(seconds=approval_seconds(CONFIGURATION)),
        execution_timeout=None,  # it would end the wait and not the work (airflow#55866)
    )
    approve = UpdaterCommand(task_id="approve", arguments=approve_arguments)
    reject = UpdaterCommand(
        task_id="reject", arguments=reject_arguments, trigger_rule="none_failed"
    )
    chain(ingest, *steps, approval_needed(), approval, approve, reject)
