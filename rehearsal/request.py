"""What an update asks of a rehearsal policy. Called by `choose`; a value, no work."""

from collections.abc import Mapping
from dataclasses import dataclass, field

STRATA = ("completion", "period", "subject", "stratum")
"""What `class_balanced` can balance: columns of `train.parquet`, or the period."""


@dataclass(frozen=True)
class Request:
    """`budget` past examples by `policy`, going on from `cursors` (of the last manifest).

    Args:
        policy: a name in `choose.POLICIES`.
        budget: at least 0.
        cursors: as in `manifest.Manifest`.
        strata: of `class_balanced`: one of STRATA.
        pool_factor: of `hard` and `surprise`: the model answers so many times the budget, at
            least 2: with 1 there is nothing to choose among.
        seed: of `hard` and `surprise`, at least 0.

    Raises:
        ValueError: a number out of range, or unknown strata.
    """

    policy: str
    budget: int
    cursors: Mapping[str, int] = field(default_factory=dict)
    strata: str = "completion"
    pool_factor: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"budget": 0, "pool_factor": 2, "seed": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least {least}")
        if self.strata not in STRATA:
            raise ValueError(f"strata is {self.strata!r}: must be one of {', '.join(STRATA)}")
