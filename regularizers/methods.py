"""Every method that holds weights by one quadratic anchor, in one table.

A method that holds none (`none`, and those that guard answers or gradients instead) is not in it.
Called by `updater.train.memory` and by the importance step of `updater.pipeline`.

Strength means the same for all: lambda in lambda/2 * sum_i importance_i (theta_i - anchor_i)^2.
The papers of SI and MAS write theirs without the 1/2: SI's c and MAS's lambda are strength / 2.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from regularizers import consolidate
from regularizers.consolidate import Held

Consolidate = Callable[..., Held]


class Method(NamedTuple):
    """How a method comes to what it holds.

    `source`: where a term's importance comes from: "ones"; "fisher", by the estimator that is
    configured; "mas"; "path", from the training itself. `looks_at`: the examples of an estimate,
    "past" (all that was learnt) or "newest" (what this update learnt). `consolidate`: (what was
    held or None, the new term, decay=) -> what is held now.
    """

    source: str
    looks_at: str
    consolidate: Consolidate

    @property
    def reads_older_weights(self) -> bool:
        """Whether what is held lies between the weights of all terms, and not at the newest."""
        return self.consolidate is consolidate.summed

    def trace(self, estimator: str) -> str:
        """What the training has to record for a term, as `updater.train.fit` names it: "" where an
        estimate afterwards does."""
        if self.source == "fisher":
            return "optimizer" if estimator == "optimizer" else ""
        return "path" if self.source == "path" else ""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "l2": Method("ones", "past", consolidate.newest),
        "ewc": Method("fisher", "past", consolidate.newest),
        "ewc, periods": Method("fisher", "newest", consolidate.summed),
        "online_ewc": Method("fisher", "newest", consolidate.accumulated),
        "si": Method("path", "newest", consolidate.added),
        "mas": Method("mas", "newest", consolidate.added),
    }
)


def method_of(name: str, terms: str) -> Method | None:
    """What `regularizer.method` and `regularizer.terms` say; None: no weights are held."""
    return METHODS.get(f"{name}, {terms}", METHODS.get(name))
