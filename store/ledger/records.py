"""What the ledger gives and takes: frozen values, detached from any database.

Times (`_at`) are aware and UTC. `schema`, `config`, `result`, `payload`, `rule` and `comparisons`
are plain JSON: dictionaries and lists of strings, finite numbers, booleans and None. Called by
everything that reads or writes the ledger.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

UPDATE_KINDS = ("update", "scratch", "adopt", "compress")
STEP_STATES = ("running", "finished")
VERDICTS = ("accepted", "rejected", "review")
RELEASE_KINDS = ("promoted", "rolled_back")
DECISION_KINDS = ("approved", "rejected", "abandoned")


@dataclass(frozen=True, kw_only=True)
class Period:
    """A period that is known; `ordinal` orders periods. Named periods have no start and end."""

    id: str
    ordinal: int
    start_at: datetime | None
    end_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """One immutable state of a period: a git `commit`, DVC's `digest`, and what ingest counted."""

    id: str
    period: str
    commit: str
    digest: str
    num_train: int
    num_holdout: int
    num_quarantined: int
    num_duplicates: int
    num_leaked: int
    schema: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Update:
    """One run of the story. `base` is None for a first model; `candidate` until there is one."""

    id: str
    kind: str
    period: str
    base: str | None
    dataset_version: str
    config: dict[str, Any]
    config_digest: str
    candidate: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of an update. `finished_at` and `seconds` are None while it runs."""

    update: str
    name: str
    state: str
    attempts: int
    started_at: datetime
    finished_at: datetime | None
    seconds: float | None
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of the model: `periods` it has learnt, from which `dataset_versions` of them."""

    id: str
    kind: str
    base: str | None
    update: str | None
    digest: str
    uri: str
    periods: list[str]
    dataset_versions: dict[str, str]
    run_id: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a version did on the holdout of a dataset version. `outcomes` is the file's path."""

    version: str
    period: str
    dataset_version: str
    num_correct: int
    num_examples: int
    outcomes: str
    created_at: datetime

    def __post_init__(self) -> None:
        if not 0 <= self.num_correct <= self.num_examples or self.num_examples == 0:
            raise ValueError(
                f"num_correct: {self.num_correct} of {self.num_examples} examples; must lie "
                "between 0 and num_examples, and num_examples above 0"
            )

    @property
    def accuracy(self) -> float:
        """Right answers per example, 0..1."""
        return self.num_correct / self.num_examples


@dataclass(frozen=True, kw_only=True)
class VerdictRecord:
    """What the gate decided on an update, why, and by which rule."""

    update: str
    verdict: str
    reasons: list[str]
    comparisons: list[dict[str, Any]]
    rule: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Release:
    """By which `kind` of event which version was deployed."""

    kind: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; never edited. Order is `id`, never `at`."""

    id: int
    at: datetime
    actor: str
    kind: str
    version: str | None
    previous: str | None
    update: str | None
    reason: str
    payload: dict[str, Any] = field(default_factory=dict)
