"""What a score matrix says: average, forgetting, backward and forward transfer; and flips.

Not a judgement (`updater.gate`) and not an interval (`updater.statistics`). Called by the pipeline
for MLflow and by the report; the standard library only. A score that does not exist is None, never
NaN and never 0, and what needs it is None as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chain:
    """The score matrix along one line of descent: a version's bases, oldest first, then itself.

    `accuracy[i][j]` is that of `versions[i]` on `periods[j]` (0..1, or None), the R_ij of
    Lopez-Paz & Ranzato (2017). They learn one period a row; here a first model may learn several,
    so `learnt_at[j]` says in which row period j was learnt (None: in none of them).

    Raises:
        ValueError: the shapes differ, or `learnt_at` names no row.
    """

    versions: tuple[str, ...]
    periods: tuple[str, ...]
    accuracy: tuple[tuple[float | None, ...], ...]
    learnt_at: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if not self.versions or len(self.accuracy) != len(self.versions):
            raise ValueError("accuracy: must have one row for each version, and at least one")
        if any(len(row) != len(self.periods) for row in (*self.accuracy, self.learnt_at)):
            raise ValueError("accuracy, learnt_at: must have one column for each period")
        if any(row is not None and not 0 <= row < len(self.versions) for row in self.learnt_at):
            raise ValueError("learnt_at: must be the number of a row, or None")

    @property
    def present(self) -> dict[str, float | None]:
        """The last version's scores on the periods that were learnt."""
        return {
            period: self.accuracy[-1][j]
            for j, period in enumerate(self.periods)
            if self.learnt_at[j] is not None
        }


def average(chain: Chain) -> float | None:
    """The last version's mean accuracy over all learnt periods, each with the same weight.

    ACC of Lopez-Paz & Ranzato (2017), equation 2. None where a score is missing: a mean over the
    others would be of something else.
    """
    return mean(chain.present.values())


def worst(chain: Chain) -> tuple[str, float] | None:
    """The learnt period on which the last version is weakest, and its accuracy there."""
    scored = [(value, period) for period, value in chain.present.items() if value is not None]
    if not scored:
        return None
    value, period = min(scored)
    return period, value


def forgetting(chain: Chain) -> dict[str, float | None]:
    """For each period learnt before the last version: best score so far minus present score.

    Chaudhry et al. (2018), "Riemannian Walk", definition 3: the best is over the versions from the
    one that learnt it to the last but one, so a gain comes out negative. None where the present
    score or every earlier one is missing.
    """
    last = len(chain.versions) - 1
    lost: dict[str, float | None] = {}
    for j, period in enumerate(chain.periods):
        first = chain.learnt_at[j]
        if first is not None and first < last:
            so_far = [row[j] for row in chain.accuracy[first:last]]
            present, known = chain.accuracy[-1][j], [s for s in so_far if s is not None]
            lost[period] = None if present is None or not known else max(known) - present
    return lost


def average_forgetting(chain: Chain) -> float | None:
    """The mean of `forgetting`; None where one is missing or nothing was learnt before."""
    return mean(forgetting(chain).values())


def backward_transfer(chain: Chain) -> float | None:
    """What learning the later periods did to the earlier ones: the mean over periods learnt before
    the last version of R_Tj - R_jj. Below 0 is forgetting.

    Lopez-Paz & Ranzato (2017), equation 3, with R_jj the score of the version that learnt j.
    """
    last = len(chain.versions) - 1
    changes: list[float | None] = []
    for j, first in enumerate(chain.learnt_at):
        if first is not None and first < last:
            changes.append(_minus(chain.accuracy[last][j], chain.accuracy[first][j]))
    return mean(changes)


def forward_transfer(chain: Chain) -> float | None:
    """What the earlier periods did for later ones before those were learnt: the mean over periods
    learnt after the first row of R_(j-1)j - b_j.

    Lopez-Paz & Ranzato (2017), equation 4. The b_j, the accuracies of a model with random weights,
    are taken as 0, which is what such a model scores when a whole completion must be exactly right.
    """
    gains: list[float | None] = []
    for j, first in enumerate(chain.learnt_at):
        if first is not None and first > 0:
            gains.append(chain.accuracy[first - 1][j])
    return mean(gains)


@dataclass(frozen=True)
class Answer:
    """A model's outcome on one holdout example: right or not, and what it said."""

    id: str
    correct: bool
    predicted: str


@dataclass(frozen=True)
class Flip:
    """An example whose outcome differs between reference and candidate."""

    period: str
    id: str
    prompt: str
    expected: str
    reference_predicted: str
    candidate_predicted: str


@dataclass(frozen=True)
class Flips:
    """`negative` were right and are now wrong, `positive` the reverse, in the holdout's order."""

    negative: tuple[Flip, ...]
    positive: tuple[Flip, ...]


def flips(
    reference: Sequence[Answer],
    candidate: Sequence[Answer],
    examples: Mapping[str, tuple[str, str]],
    *,
    period: str,
) -> Flips:
    """Every example whose outcome flipped, with its prompt and completion from `examples` (by id).

    Raises:
        ValueError: an id appears twice, the two sides answered different examples, or an example
            that flipped is not in `examples`.
    """
    after = {answer.id: answer for answer in candidate}
    before = {answer.id: answer for answer in reference}
    if len(after) != len(candidate) or len(before) != len(reference):
        raise ValueError(f"outcomes of {period}: an id appears twice")
    if after.keys() != before.keys():
        raise ValueError(f"outcomes of {period}: both versions must answer the same examples")
    flipped = [a for a in reference if a.correct != after[a.id].correct]
    lacking = [a.id for a in flipped if a.id not in examples]
    if lacking:
        raise ValueError(f"holdout of {period}: example {lacking[0]!r} is not in it")
    both: dict[bool, list[Flip]] = {True: [], False: []}
    for answer in flipped:
        prompt, expected = examples[answer.id]
        said = after[answer.id].predicted
        both[answer.correct].append(
            Flip(period, answer.id, prompt, expected, answer.predicted, said)
        )
    return Flips(negative=tuple(both[True]), positive=tuple(both[False]))


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def mean(values: Iterable[float | None]) -> float | None:
    total, num = 0.0, 0
    for value in values:
        if value is None:
            return None
        total, num = total + value, num + 1
    return total / num if num else None
