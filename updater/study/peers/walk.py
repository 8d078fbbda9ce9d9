"""A strategy of Avalanche through a whole stream, as the record that our own arms leave.

Called by `updater.study` for arms of kind "avalanche".
"""

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import UpdateError
from updater.settings import RegularizerSettings, TrainingSettings
from updater.study.peers.learner import Peer
from updater.study.peers.strategies import Means
from updater.study.results import Run, Stage
from updater.train.encode import Encoded

Scores = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Route:
    """The train examples of a stream: period -> tokens, of those that the first model has learnt
    and of those that updates bring, each in order."""

    first: Mapping[str, Encoded]
    then: Mapping[str, Encoded]

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        periods = (*self.first.values(), *self.then.values())
        return max(int(examples.lengths.max()) for examples in periods)


@dataclass(frozen=True)
class PeerSettings:
    """`strategy` as `strategies.parts` takes it; `budget` examples of memory over the whole
    stream; the seed is `training.seed`."""

    strategy: str
    training: TrainingSettings
    regularizer: RegularizerSettings
    budget: int


def walk(
    model: NemotronHForCausalLM,
    route: Route,
    settings: PeerSettings,
    *,
    arm: str,
    score: Callable[[NemotronHForCausalLM], Scores],
) -> Run:
    """What the strategy made of the stream; `model`, the first one, is changed.

    Args:
        arm: its name in the study.
        score: the model -> period -> (right answers, holdout examples); called for the first model
            and after each update, outside of the clock.

    A run whose loss becomes no number ends there and says so in `failure`.

    Raises:
        InputError: the strategy is not known.
    """
    means = Means(
        budget=settings.budget,
        num_periods=len(route.first) + len(route.then),
        batch_size=settings.training.batch_size,
        regularizer=settings.regularizer,
    )
    peer = Peer(
        settings.strategy, model, training=settings.training, means=means, longest=route.longest
    )
    stages = [Stage(period=tuple(route.first)[-1], scores=score(model))]
    failure = ""
    try:
        for examples in route.first.values():
            peer.knows(examples)
        for period, examples in route.then.items():
            learnt = peer.learn(examples)
            counts = {"steps": learnt.steps, "examples": learnt.examples, "tokens": learnt.tokens}
            stages.append(Stage(period, score(model), **counts, seconds=learnt.seconds))
    except UpdateError as error:
        failure = str(error)
    return Run(
        arm=arm,
        seed=settings.training.seed,
        learnt_first=tuple(route.first),
        stages=tuple(stages),
        failure=failure,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
