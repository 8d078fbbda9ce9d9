"""What a person may give with a run of `model_update`: Airflow's form, which the API heeds too."""

from __future__ import annotations

from airflow.sdk import Param

LEARNING = "rehearsal|regularizer|training|evaluation"  # not the gate: that is not a run's to set
ASKING = ("hard", "surprise")  # policies for which the step rehearse asks the model
NOT_ASKING = rf"(?!rehearsal\.policy=\W*({'|'.join(ASKING)})\b)"


def form(policy: str) -> dict[str, Param]:
    """The params. `policy`: the workspace's `rehearsal.policy`.

    Which worker a task goes to is fixed when Airflow reads the DAG file. So where the workspace's
    policy leaves `rehearse` to one without torch, no run may choose a policy that needs it.
    """
    pattern, but = rf"({LEARNING})\.[a-z_.]+=.+$", ""
    if policy not in ASKING:
        pattern = NOT_ASKING + pattern
        but = (
            " But not rehearsal.policy=hard or surprise: for these two the step rehearse needs a "
            "GPU worker, which it has where updater.toml says so."
        )
    return {
        "period": Param(
            None,
            type=["null", "string"],
            title="Period",
            description="The period to learn, as in `updater periods`. Leave empty only where "
            "the run has a partition key.",
        ),
        "settings": Param(
            [],
            type="array",
            items={"type": "string", "pattern": f"^{pattern}"},
            title="Settings for this run",
            description="One KEY=VALUE a line, as `updater --set` takes them: training.epochs=2. "
            f"Of rehearsal, regularizer, training and evaluation.{but}",
        ),
    }
