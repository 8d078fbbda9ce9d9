"""Every method that holds weights by one quadratic anchor, in one table.

A method that holds none (`none`, and those that guard answers or gradients instead) is not in it.
Called by `updater.train.memory`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from regularizers import consolidate
from regularizers.consolidate import Held

Consolidate = Callable[..., Held]


class Method(NamedTuple):
    """`estimator`: how a term's importance is found: "ones", or "fisher", by the estimator that is
    configured. `consolidate`: (what was held or None, the new term, decay=) -> what is held now."""

    estimator: str
    consolidate: Consolidate


METHODS: Mapping[tuple[str, str], Method] = MappingProxyType(
    {
        ("l2", "base"): Method("ones", consolidate.newest),
        ("ewc", "base"): Method("fisher", consolidate.newest),
    }
)
"""(method, terms) -> how."""
