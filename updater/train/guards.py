"""What keeps the past while new data is learnt, as one value that the trainer takes.

Does not choose: the caller builds it from the configuration. Called by the train step of
`updater.pipeline`, by studies and by benchmarks.
"""

from dataclasses import dataclass, field

from regularizers.anchor import NoAnchor, Regularizer
from updater.train.objective import Likelihood, Objective


@dataclass(frozen=True)
class Guards:
    """`anchor` pulls weights back; `objective` says what a micro-batch teaches. Each by default
    holds nothing: fine-tuning on whatever the lesson has."""

    anchor: Regularizer = field(default_factory=NoAnchor)
    objective: Objective = field(default_factory=Likelihood)

    @property
    def fingerprint(self) -> str:
        """Of all that decides how it guards, for a run that is resumed."""
        strength = getattr(self.anchor, "strength", None)
        return f"{type(self.anchor).__name__} {strength!r} {self.objective.fingerprint}"
