"""Part of step evaluate: new processes load what will be released, and answer as it was judged by.

The comparison is `updater.verify`'s; here is what is compared, and the event that says so.
"""

from store.ledger import ModelVersion
from updater.files import write_json
from updater.steps.student import answers, checkpoint_of
from updater.stopwatch import Stopwatch
from updater.verify import check, refuse_others, verify
from updater.workspace import Workspace


def verify_version(
    workspace: Workspace, version: ModelVersion, watch: Stopwatch | None = None
) -> int:
    """The event "verified" stands: a clean process gave the scores that `version` was judged by.

    Returns: how many examples were compared.
    """
    ledger = workspace.ledger
    known = ledger.first_event("verified", version=version.id)
    if known is not None:
        return int(known.payload["num_examples"])
    workspace.checkpoints.verify(version.digest)
    num_examples, seconds = _verified(workspace, version)
    if watch is not None:
        watch.seconds += seconds
    ledger.append(
        "verified",
        version.id,
        actor=workspace.actor,
        reason=f"a clean process answered {num_examples} examples as judged",
        update=version.update,
        payload={"num_examples": num_examples, "digest": version.digest},
    )
    return num_examples


def _verified(workspace: Workspace, version: ModelVersion) -> tuple[int, float]:
    """How many examples new processes answered as judged, and the seconds of their forward passes.

    Raises:
        UpdateError, InputError: they can't load it, or answer otherwise.
    """
    cases = [
        {
            "period": s.period,
            "holdout": str(workspace.datasets.path(s.dataset_version, "holdout.parquet")),
            "outcomes": str(workspace.root / s.outcomes),
        }
        for s in workspace.ledger.scores(version=version.id)
        if s.period in version.periods
    ]
    evaluation, folder = workspace.settings.evaluation, checkpoint_of(workspace, version.id)
    spec = {
        "max_length_tokens": workspace.settings.model.max_length_tokens,
        "batch_size": evaluation.batch_size,
        "num_examples": evaluation.verify_examples,
        "cases": cases,
    }
    if workspace.settings.training.devices > 1:
        watch = Stopwatch()
        said = check(spec, lambda asked: answers(workspace, folder, asked, watch), exact=False)
        refuse_others(folder, said)
        return int(said["num_checked"]), watch.seconds
    file = workspace.root / "cache" / f"verify-{version.id}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, spec)
    from updater.launch import processes

    processes.make_room()  # the new process has the whole model once more
    return verify(folder, file)
