"""An arm of kind "avalanche": a strategy of Avalanche walks over the stream as our arms do.

Called through `updater.study.students`.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from updater.nemotron import checkpoint
from updater.study.fine_tuned import Cost
from updater.study.first import Model
from updater.study.job import Job
from updater.study.peers import names
from updater.study.peers.learner import Peer
from updater.study.peers.strategies import Means
from updater.study.results import Stage
from updater.train.encode import Encoded, encode


class PeerStudent:
    """The model with its strategy. What the strategy gathers over the stream is on no disk: after
    a kill, or an update that was not deployed, it learns those that were anew, whose stages stay as
    they were recorded."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.model = Model(*checkpoint.load(job.first.place / "checkpoint"))
        self._peer: Peer | None = None
        self._examples: dict[str, Encoded] = {}

    def learn(self, period: str, before: Sequence[Stage]) -> Cost:
        """The period is learnt by the strategy. The first update pays for what the strategy gathers
        of the periods that the first model has learnt.

        Raises:
            UpdateError: it diverged.
        """
        owed_seconds = 0.0
        if self._peer is None:
            self._peer, owed_seconds = self._begun()
            for stage in before[1:]:
                if stage.deployed:
                    self._peer.learn(self._examples[stage.period])
        learnt = self._peer.learn(self._examples[period])
        seconds = learnt.seconds + (owed_seconds if len(before) == 1 else 0.0)
        return Cost(learnt.steps, learnt.examples, learnt.tokens, seconds)

    def _begun(self) -> tuple[Peer, float]:
        """A strategy that knows what the first model knows, and the seconds that this took."""
        stream, settings = self._job.stream, self._job.settings
        self._examples = {period: self._encoded(period) for period in stream.span.periods}
        peer = Peer(
            self._job.arm.strategy,
            self.model.network,
            training=settings.training,
            means=Means(
                budget=budget(self._job),
                num_past=len(stream.span.periods) - 1,
                batch_size=settings.training.batch_size,
                regularizer=settings.regularizer,
            ),
            longest=max(int(some.lengths.max()) for some in self._examples.values()),
        )
        # As the first model learnt them: at once; but a memory has its share of each.
        known = [self._encoded(*stream.span.first)]
        if names.remembers(self._job.arm.strategy):
            known = [self._examples[period] for period in stream.span.first]
        started = time.monotonic()
        for examples in known:
            peer.knows(examples)
        return peer, time.monotonic() - started

    def _encoded(self, *periods: str) -> Encoded:
        settings = self._job.settings
        table = pa.concat_tables(self._job.stream.train(period) for period in periods)
        return encode(
            self.model.tokenizer,
            table,
            max_length_tokens=settings.model.max_length_tokens,
            thinking=settings.training.train_thinking,
        )

    def save(self, folder: Path) -> None:
        """Nothing is kept but the record."""

    def restore(self, folder: Path) -> None:
        """`learn` begins at the first model again."""


def budget(job: Job) -> int:
    """Examples of memory: what our arm with these settings would rehearse at the last update."""
    stream = job.stream
    num_past = sum(stream.data[period].num_train for period in stream.span.periods[:-1])
    return job.settings.rehearsal.examples(num_past)
