"""Whose turn it is: the runs of `model_update` go one after the other, the oldest tick first.

`max_active_runs` of a DAG does not see to that in Airflow 3.3. A backfill counts its own runs, ten
at a time, and the schedule's beside them; and `depends_on_past` looks at logical dates, which runs
with a partition key have none of. Updates at the same time would start at the same base, and all
but the first to end would be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseSensorOperator, DagRunState
from airflow.sdk.exceptions import AirflowFailException

from updater_dags import limits

Context = Any
ENDED = {"success", "skipped", "failed", "upstream_failed", "removed"}
LAST = datetime.max.replace(tzinfo=UTC)
OF_TICK = re.compile(r"(?:scheduled|backfill)__([0-9T:.+-]+?)(?:__|$)")


class Turn(BaseSensorOperator):
    """Waits while another run is at work or comes first, without a worker; fails where the run of
    the tick before has, or the one that the run is `after` by its conf. `last`: the task with which
    a run ends."""

    ui_color = "#e8f1fb"

    def __init__(self, *, last: str, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", **limits.waiting(), **kwargs)
        self.last = last

    def poke(self, context: Context) -> bool:
        """Whether it is this run's turn.

        Raises:
            AirflowFailException: it never will be, as things are.
        """
        ti, run = context["ti"], context["dag_run"]
        mine, after = run.run_id, (run.conf or {}).get("after")
        dag = {"dag_id": self.dag_id}
        tasks = ti.get_task_states(**dag, task_ids=[self.task_id, self.last])
        for other, states in tasks.items():
            if other == mine or states.get(self.last) in ENDED:
                continue
            state = DagRunState(ti.get_dagrun_state(**dag, run_id=other)).value
            if goes_before(other, mine, state, has_begun=states.get(self.task_id) == "success"):
                self.log.info("%s is %s: this run waits for it", other, state)
                return False
        before = [after] if after else of_tick_before(mine, tasks)
        if before and ti.get_dr_count(**dag, run_ids=before, states=["running"]):
            self.log.info("%s has ended, which the scheduler has yet to see", before[-1])
            return False
        if before and not ti.get_dr_count(**dag, run_ids=before, states=["success"]):
            raise AirflowFailException(refused(self.dag_id, before[-1]))
        return True


def tick_of(run: str) -> datetime | None:
    """Of a run of the schedule or of a backfill, by its id; None of one that somebody started."""
    match = OF_TICK.match(run)
    try:
        return datetime.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def goes_before(other: str, mine: str, state: str, *, has_begun: bool) -> bool:
    """Whether my run waits for the other one, which is in that state.

    Of two, the one with the older tick is first, and one that somebody started comes after all
    ticks; but whoever has begun goes on. One that is queued beside mine may be so because mine
    runs: waiting for it would be for ever.
    """
    is_first = _place(other) < _place(mine)
    if state == "running":
        return has_begun or is_first
    return state == "queued" and is_first and _is_backfill(other) != _is_backfill(mine)


def of_tick_before(mine: str, runs: Iterable[str]) -> list[str]:
    """The runs of the newest tick before mine; none where nobody knows mine."""
    tick = tick_of(mine)
    if tick is None:
        return []
    ticks = {run: found for run in runs if (found := tick_of(run)) and found < tick}
    return sorted(run for run, found in ticks.items() if found == max(ticks.values()))


def refused(dag: str, before: str) -> str:
    """Why a run can't begin, and what to do."""
    return (
        f"the run before this one, {before}, did not succeed, and a period is not learnt ahead "
        "of the one before it. The log of what failed there says what to do. Then clear both, that "
        f"one first: airflow dags clear {dag} --run-id RUN --only-failed --yes (without "
        "--only-failed where it has to begin anew). To go on without it, mark that run as success "
        "and clear this one."
    )


def _place(run: str) -> tuple[datetime, str]:
    return tick_of(run) or LAST, run


def _is_backfill(run: str) -> bool:
    return run.startswith("backfill__")
