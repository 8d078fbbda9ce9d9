"""What an update rehearses, as numbers: which rows of which dataset version.

A manifest is a decision, not a copy: `window.load` reads what it names, now or in years. Of most
policies it is a window of each period, which `plan` decides without opening a file. The pipeline
makes one per update (`choose`) and hands the cursors of the last one to the next.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rehearsal.choice import Choice, Picked, choice_of, typed
from rehearsal.policies import POLICIES, Past
from rehearsal.quota import split

CURSOR_UNITS = 2**40
"""A cursor is how far round a period's file has been used: full rounds, and the place of the next
window as a fraction of the file, in units of 2^-40. So it names the same place (in the space of
hashes) when the period's next dataset version has more or fewer examples, names a row exactly
while there are at most 2^40 of them, and tells which period is furthest behind."""


@dataclass(frozen=True)
class Manifest:
    """The choices of one update, at most one of a period, and `cursors`: for each period planned
    over so far, where the next update goes on (see CURSOR_UNITS; `strata.DEALT` is one more)."""

    policy: str
    budget: int
    choices: tuple[Choice | Picked, ...] = ()
    cursors: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """How many examples are rehearsed: `budget`, or all that can be if that is less."""
        return sum(choice.count for choice in self.choices)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def first(self, budget: int) -> "Manifest":
        """The first part, in hash order, of what is chosen of every period: `budget` examples in
        all, in the choices' own proportions. The whole where it has no more.

        What a search of the fraction tries: parts of one plan, so that the choice stays one. Of
        windows that come round, the next update goes on where these end; by the other policies it
        goes on as after the whole.

        Raises:
            ValueError: a negative budget.
        """
        if budget >= self.num_examples:
            return self
        counts = {choice.period: choice.count for choice in self.choices}
        kept = split(budget, counts, counts)
        cursors = dict(self.cursors)
        for one in self.choices if self.policy in POLICIES else ():
            # Rounding down gives the row that `plan` rounded up from: see CURSOR_UNITS.
            row = cursors[one.period] * one.num_train // CURSOR_UNITS - one.count + kept[one.period]
            cursors[one.period] = -(-row * CURSOR_UNITS // one.num_train)
        some = (one.first(kept[one.period]) for one in self.choices if kept[one.period])
        return Manifest(self.policy, budget, tuple(some), cursors)

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
            choices = tuple(choice_of(one) for one in plain["choices"])
            whole = typed(cls, plain)
            cursors = {str(period): int(cursor) for period, cursor in whole["cursors"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a rehearsal manifest: {error}; plan it again") from error
        return cls(**(whole | {"choices": choices, "cursors": cursors}))


def plan(
    past: Sequence[Past], *, policy: str, budget: int, cursors: Mapping[str, int] | None = None
) -> Manifest:
    """The budget is split over the past by the policy, and each window follows the last one.

    For the policies that choose windows; `choose.choose` is for all.

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
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}: must be one of {', '.join(POLICIES)}")
    check(past, cursors)
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


def check(past: Sequence[Past], cursors: Mapping[str, int]) -> None:
    """Every period is given once, and no cursor is negative.

    Raises:
        ValueError: otherwise.
    """
    periods = [one.period for one in past]
    if len(set(periods)) != len(periods):
        raise ValueError(f"a period is given twice: {sorted(periods)}")
    for period, cursor in cursors.items():
        if cursor < 0:
            raise ValueError(f"the cursor of {period!r} is {cursor}: must be at least 0")
