"""What flipped between a version and its base, read from the outcomes files.

Counted and listed by `updater.metrics`; called by `collect`.
"""

from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from store.ledger import ModelVersion, Score
from updater import metrics
from updater.metrics import Answer
from updater.outcomes import counted
from updater.report.data import PeriodFlips
from updater.workspace import Workspace

_MOST_FLIPS = 20  # of each kind and period; the holdout lies in hash order, so they are a sample


def against_base(
    workspace: Workspace,
    subject: ModelVersion,
    learnt: Mapping[str, str],
    holdout: Callable[[str], pa.Table],
) -> tuple[tuple[PeriodFlips, ...] | None, tuple[str, ...]]:
    """(What flipped on each period that the version has learnt, those where it can't be known for
    want of outcomes of both). None for a first model. `learnt`: period -> dataset version.

    Raises:
        OSError: an outcomes file can't be read.
        ValueError: the files of one dataset version hold different examples.
    """
    if subject.base is None:
        return None, ()
    before = {s.dataset_version: s for s in workspace.ledger.scores(version=subject.base)}
    after = {s.dataset_version: s for s in workspace.ledger.scores(version=subject.id)}
    known, unknown = [], []
    for period, dataset in learnt.items():
        was = _answers(workspace, before.get(dataset))
        now = _answers(workspace, after.get(dataset))
        if was is None or now is None:
            unknown.append(period)
        else:
            known.append(_period_flips(period, was, now, partial(holdout, dataset)))
    return tuple(known), tuple(unknown)


def _period_flips(
    period: str,
    before: list[Answer],
    after: list[Answer],
    holdout: Callable[[], pa.Table],
) -> PeriodFlips:
    right = {answer.id: answer.correct for answer in after}
    examples: dict[str, tuple[str, str]] = {}
    if any(right.get(answer.id) != answer.correct for answer in before):
        table = holdout()
        columns = [table[name].to_pylist() for name in ("id", "prompt", "completion")]
        examples = {i: (prompt, said) for i, prompt, said in zip(*columns, strict=True)}
    found = metrics.flips(before, after, examples, period=period)
    return PeriodFlips(
        period=period,
        num_examples=len(before),
        num_negative=len(found.negative),
        num_positive=len(found.positive),
        negative=found.negative[:_MOST_FLIPS],
        positive=found.positive[:_MOST_FLIPS],
    )


def _answers(workspace: Workspace, score: Score | None) -> list[Answer] | None:
    table = None if score is None else counted(workspace, score)
    if table is None:
        return None
    columns = [table[name].to_pylist() for name in ("id", "correct", "predicted")]
    # An example that was too long to be asked has no prediction.
    return [Answer(i, bool(right), said or "") for i, right, said in zip(*columns, strict=True)]
