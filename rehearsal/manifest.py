"""What an update rehearses, as a few integers: which window of which dataset version.

A manifest is a decision, not a copy: `window.load` reads what it names, now or in years. The
pipeline plans one per update and hands the cursors of the last one to the next.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rehearsal.policies import POLICIES, Past
from rehearsal.quota import split

CURSOR_UNITS = 2**40
"""A cursor is how far round a period's file has been used: full rounds, and the place of the next
window as a fraction of the file, in units of 2^-40. So it names the same place (in the space of
hashes) when the period's next dataset version has more or fewer examples, names a row exactly
while there are at most 2^40 of them, and tells which period is furthest behind."""


@dataclass(frozen=True)
class Choice:
    """Rows `start`, `start + 1`, ... (`count` of them, wrapping at `num_train`) of one period's
    `train.parquet` in the version `dataset_version`, which has `num_train` rows."""

    period: str
    dataset_version: str
    num_train: int
    start: int
    count: int

    def __post_init__(self) -> None:
        if not (0 < self.count <= self.num_train and 0 <= self.start < self.num_train):
            raise ValueError(
                f"choice of period {self.period!r}: count {self.count} and start {self.start} "
                f"must lie within its {self.num_train} examples"
            )


@dataclass(frozen=True)
class Manifest:
    """The choices of one update, and `cursors`: for each period planned over so far, where the next
    update goes on (see CURSOR_UNITS)."""

    policy: str
    budget: int
    choices: tuple[Choice, ...] = ()
    cursors: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """How many examples are rehearsed: `budget`, or all of the past if that is less."""
        return sum(choice.count for choice in self.choices)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks, so that equal manifests are equal texts."""
        plain = asdict(self) | {"cursors": dict(self.cursors)}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The manifest that `to_json` wrote.

        Raises:
            ValueError: not JSON, or not a manifest.
        """
        plain = json.loads(text)
        try:
            choices = tuple(Choice(**_typed(Choice, one)) for one in plain["choices"])
            whole = _typed(cls, plain)
            cursors = {str(period): int(cursor) for period, cursor in whole["cursors"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a rehearsal manifest: {error}; plan it again") from error
        return cls(**(whole | {"choices": choices, "cursors": cursors}))


def _typed(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    names = [one.name for one in fields(kind)]
    if set(plain) != set(names):
        raise TypeError(f"{kind.__name__} has fields {names}, found {sorted(plain)}")
    for one in fields(kind):
        if one.type in (int, str) and type(plain[one.name]) is not one.type:
            raise TypeError(f"{kind.__name__}.{one.name} is {plain[one.name]!r}")
    return dict(plain)


def plan(
    past: Sequence[Past], *, policy: str, budget: int, cursors: Mapping[str, int] | None = None
) -> Manifest:
    """The budget is split over the past by the policy, and each window follows the last one.

    Windows wrap round, so over successive updates every period that keeps being chosen from is
    used whole. No period of weight above 0 is left out while the budget has an example for each;
    where it has not, those that are least far round come first.

    Args:
        past: one for each period already learnt, in any order.
        policy: a name in `policies.POLICIES`.
        budget: examples to rehearse, at least 0.
        cursors: `cursors` of the last update's manifest; None starts every period at row 0.

    Raises:
        ValueError: an unknown policy, a negative budget or size, a period given twice, or a
            negative cursor.
    """
    cursors = dict(cursors or {})
    _check(past, policy, cursors)
    # A period that is new joins the round that the one furthest behind is in.
    known = [cursors[one.period] for one in past if one.period in cursors and one.num_train]
    begin = min(known, default=0) // CURSOR_UNITS * CURSOR_UNITS
    cursors |= {one.period: cursors.get(one.period, begin) for one in past}
    ordered = sorted(past, key=lambda one: (cursors[one.period], one.period))
    capacities = {one.period: one.num_train for one in ordered}
    weights = POLICIES[policy](ordered)
    quotas = _nobody_starves(split(budget, weights, capacities), weights, capacities)
    choices = []
    for one in sorted(past, key=lambda one: (one.ordinal, one.period)):
        count = quotas[one.period]
        if count:
            rounds, place = divmod(cursors[one.period], CURSOR_UNITS)
            start = place * one.num_train // CURSOR_UNITS
            choices.append(Choice(one.period, one.dataset_version, one.num_train, start, count))
            # Rounded up, so that rounding down on the way back gives the same row again.
            cursors[one.period] = -(
                -(rounds * one.num_train + start + count) * CURSOR_UNITS // one.num_train
            )
    return Manifest(policy, budget, tuple(choices), cursors)


def _nobody_starves(
    quotas: dict[str, int], weights: Mapping[str, float], capacities: Mapping[str, int]
) -> dict[str, int]:
    """Rounding leaves a small share at 0 for ever; it gets one example of the largest quota."""
    for name in [name for name, weight in weights.items() if weight > 0 and capacities[name]]:
        richest = max(quotas, key=quotas.__getitem__)
        if quotas[name] == 0 and quotas[richest] > 1:
            quotas[richest] -= 1
            quotas[name] = 1
    return quotas


def _check(past: Sequence[Past], policy: str, cursors: Mapping[str, int]) -> None:
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}: must be one of {', '.join(POLICIES)}")
    periods = [one.period for one in past]
    if len(set(periods)) != len(periods):
        raise ValueError(f"a period is given twice: {sorted(periods)}")
    for period, cursor in cursors.items():
        if cursor < 0:
            raise ValueError(f"the cursor of {period!r} is {cursor}: must be at least 0")
