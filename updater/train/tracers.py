"""What a training records of itself on the way, by the name that `fit` is given.

Cannot be had afterwards: whoever needs it for the next update keeps it. Called by
`updater.train.fit`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from regularizers.fisher import from_second_moment
from regularizers.path import Path
from updater.train.learner import Learner
from updater.train.schedule import Plan

Tracer = Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
"""What `Fit` has as `trace` and `moved`, once the run is finished."""


def _nothing(learner: Learner, plan: Plan) -> Tracer:
    return lambda: ({}, {})


def _optimizer(learner: Learner, plan: Plan) -> Tracer:
    def trace() -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        fisher = from_second_moment(
            learner.trained,
            learner.optimizer,
            num_examples=plan.examples_per_step,
            num_tokens=plan.completion_tokens_per_step,
        )
        return fisher, {}

    return trace


def _path(learner: Learner, plan: Plan) -> Tracer:
    path = learner.path = Path(learner.trained, learner.optimizer.state)
    return lambda: (path.omega(), path.moved())


TRACERS: Mapping[str, Callable[[Learner, Plan], Tracer]] = MappingProxyType(
    {"": _nothing, "optimizer": _optimizer, "path": _path}
)
"""Name -> what makes a tracer, before the learner is restored: a path begins where the run did."""
