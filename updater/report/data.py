"""What the report shows, as plain values: `collect` fills it, `page` and the figures read it.

No reading of files and no drawing here, so that every picture can be tried on made-up data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from updater import metrics
from updater.cost import Cost
from updater.metrics import Chain, Flip
from updater.shrunk import Compression


@dataclass(frozen=True)
class Version:
    """One row of the score matrix. `learnt` are all the periods it knows, in their order, `new`
    those of them that its own update taught it (perhaps again, from new data); `verdict` is None
    while its update has none; `was_deployed` is "ever"."""

    id: str
    kind: str
    base: str | None
    learnt: tuple[str, ...]
    new: tuple[str, ...]
    verdict: str | None
    was_deployed: bool
    created_at: str
    update: str | None = None
    digest: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Cell:
    """A score: so many right of so many holdout examples, at least one."""

    num_correct: int
    num_examples: int

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples


@dataclass(frozen=True)
class Deployment:
    """From this event on, users had `version`. `kind` is promoted or rolled_back."""

    at: str
    kind: str
    version: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Judgement:
    """The gate's verdict with the rule that it followed. `comparisons` are `Comparison.as_dict`s as
    the ledger keeps them; `decision` is what a person made of it: "approved", "rejected",
    "abandoned" or, over the gate's head, "promoted", and who and why; None where nobody had to."""

    verdict: str
    reasons: tuple[str, ...]
    comparisons: tuple[Mapping[str, Any], ...]
    margin_fraction: float
    confidence: float
    decision: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class PeriodFlips:
    """What flipped on one period between base and version. `negative` and `positive` are the first
    few in hash order, which is a random sample of them."""

    period: str
    num_examples: int
    num_negative: int
    num_positive: int
    negative: tuple[Flip, ...] = ()
    positive: tuple[Flip, ...] = ()


@dataclass(frozen=True)
class Window:
    """Rows `start`, `start + 1`, ... (`count`, wrapping round) of a period's train examples; if
    `start` is None, so many rows that were picked one by one."""

    period: str
    dataset_version: str
    num_train: int
    start: int | None
    count: int


@dataclass(frozen=True)
class Rehearsed:
    """What was shown again: the manifest's policy, budget and windows."""

    policy: str
    budget: int
    windows: tuple[Window, ...]

    @property
    def num_examples(self) -> int:
        return sum(window.count for window in self.windows)


@dataclass(frozen=True)
class Importance:
    """What the update's weights were held by: how it was estimated, the format that it is kept in,
    and its bytes beside those of the base's weights on disk."""

    estimator: str
    num_examples: int
    format: str
    num_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class Drafts:
    """What part of a multi-token-prediction head's first, second, .. drafts is accepted, in [0, 1],
    before and after it was aligned; on so many holdout examples."""

    acceptance_before: tuple[float, ...]
    acceptance_after: tuple[float, ...]
    num_examples: int


@dataclass(frozen=True)
class Searched:
    """What was tried before training, in turn: `trials` and the `winner` among them as
    `updater.trials.Trial.as_dict`s; None where none came to an end. `base_past` is the base's
    accuracy on the `num_past` old examples that judged them, None where there were none."""

    trials: tuple[Mapping[str, Any], ...]
    winner: Mapping[str, Any] | None
    num_new: int
    num_past: int
    base_past: float | None


@dataclass(frozen=True)
class Went:
    """What compression took away of a model with these layers, a letter each.

    `base_parameters` that it had, None where that is not known. One of the rest is not empty: the
    numbers of the `layers` that went; by layer, those of the experts or heads, of `num_parts` each
    (`parts`); by layer and sort of MLP or matrix, the share of its neurons or weights. A layer is
    called by its number, one of a multi-token-prediction head "MTP 0".
    """

    letters: str
    base_parameters: int | None
    layers: tuple[int, ...] = ()
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    num_parts: int = 0
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A dataset version that the version has learnt, with its counts."""

    period: str
    id: str
    num_train: int
    num_holdout: int
    num_quarantined: int
    num_duplicates: int
    num_leaked: int


@dataclass(frozen=True)
class ReportData:
    """Everything about one version. `versions` and `deployments` are oldest first, `periods` in
    their order; `scores` is keyed by (version, period); a missing score is no key; `curve` is
    metric -> points (step, value); `flips` is None where there is no base to flip from, and
    `flips_unknown` are learnt periods on which base and version have no outcomes in common; `went`
    is None where it is not known."""

    workspace: str
    version: str
    made_at: str
    versions: tuple[Version, ...]
    periods: tuple[str, ...]
    scores: Mapping[tuple[str, str], Cell]
    deployments: tuple[Deployment, ...] = ()
    judgement: Judgement | None = None
    flips: tuple[PeriodFlips, ...] | None = None
    flips_unknown: tuple[str, ...] = ()
    rehearsed: Rehearsed | None = None
    importance: Importance | None = None
    drafts: Drafts | None = None
    searched: Searched | None = None
    compression: Compression | None = None
    went: Went | None = None
    curve: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    step_seconds: tuple[tuple[str, float], ...] = ()
    cost: Cost = field(default_factory=Cost)
    datasets: tuple[Dataset, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    config_digest: str = ""

    def find(self, version: str) -> Version:
        """The row of `version`.

        Raises:
            KeyError: there is none.
        """
        for row in self.versions:
            if row.id == version:
                return row
        raise KeyError(version)

    @property
    def subject(self) -> Version:
        """The version that the report is on."""
        return self.find(self.version)

    @property
    def deployed(self) -> str | None:
        """What users have now."""
        return self.deployments[-1].version if self.deployments else None

    def lineage(self) -> tuple[Version, ...]:
        """The version's bases, oldest first, then itself."""
        rows = [self.subject]
        while (base := rows[-1].base) is not None:
            rows.append(self.find(base))
        return tuple(reversed(rows))

    def accuracy(self, version: str, period: str) -> float | None:
        cell = self.scores.get((version, period))
        return None if cell is None else cell.accuracy

    def chain(self) -> Chain:
        """The score matrix along the version's line of descent, for `updater.metrics`."""
        rows = self.lineage()
        return Chain(
            versions=tuple(row.id for row in rows),
            periods=self.periods,
            accuracy=tuple(
                tuple(self.accuracy(row.id, period) for period in self.periods) for row in rows
            ),
            learnt_at=tuple(
                next((i for i, row in enumerate(rows) if period in row.learnt), None)
                for period in self.periods
            ),
        )

    def summary(self) -> dict[str, float]:
        """The numbers that fit one line, by name, as fractions and counts. What can't be known is
        not in it: MLflow takes no NaN."""
        chain = self.chain()
        worst = metrics.worst(chain)
        found: dict[str, float | None] = {
            **self._against_base(),
            "average_accuracy": metrics.average(chain),
            "worst_accuracy": None if worst is None else worst[1],
            "average_forgetting": metrics.average_forgetting(chain),
            "backward_transfer": metrics.backward_transfer(chain),
            "forward_transfer": metrics.forward_transfer(chain),
        }
        if self.flips is not None:
            found["num_negative_flips"] = sum(f.num_negative for f in self.flips)
            found["num_positive_flips"] = sum(f.num_positive for f in self.flips)
        if self.drafts is not None:  # of the first draft, without which there is no second
            found["draft_acceptance_before"] = self.drafts.acceptance_before[0]
            found["draft_acceptance_after"] = self.drafts.acceptance_after[0]
        if self.compression is not None:
            found["compression/bytes_ratio"] = self.compression.bytes_ratio
            found["compression/nonzero_fraction"] = self.compression.nonzero_fraction
        return {name: float(value) for name, value in found.items() if value is not None}

    def _against_base(self) -> dict[str, float | None]:
        """Accuracy on what is new, and the worst change on a past period against the base."""
        subject = self.subject
        if subject.base is None:
            return {}
        past = [period for period in subject.learnt if period not in subject.new]
        pairs = [
            (self.accuracy(subject.base, period), self.accuracy(subject.id, period))
            for period in past
        ]
        changes = [b - a for a, b in pairs if a is not None and b is not None]
        return {
            "new_period_accuracy": metrics.mean(
                [self.accuracy(subject.id, period) for period in subject.new]
            ),
            "worst_past_change": min(changes) if changes and len(changes) == len(past) else None,
        }


def known_at(deployments: Sequence[Deployment], data: ReportData) -> list[tuple[str, ...]]:
    """For each deployment, the periods that any version deployed until then had learnt.

    After a rollback the periods of the version that was taken back still count: users had been
    served them, so their loss must show.
    """
    known: set[str] = set()
    rows = []
    for deployment in deployments:
        known |= set(data.find(deployment.version).learnt)
        rows.append(tuple(period for period in data.periods if period in known))
    return rows
