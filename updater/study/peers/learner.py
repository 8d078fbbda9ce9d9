"""One of Avalanche's strategies, period after period, with our model, tokens and optimizer step.

Equal to our arms: the first model, the tokens, the loss (mean negative log-likelihood per
completion token of a batch), epochs over the new examples, batch size, AdamW with its groups and
betas and a fresh state for each update, the learning rate's course over an update's steps, the
clipping of the gradient's norm, frozen routers. The memory has as many examples as the arm would
rehearse at its last update.

Not equal, because they are the strategy's own: batches are drawn by Avalanche (plain shuffling,
where ours are of like length, so it pads more); replay puts a whole batch of memory beside each
new batch, so that a step sees twice the examples (ours shares one batch among both); penalties are
terms of the loss, through autograd; EWC makes an extra pass over each period's data and holds each
period by a term of its own, also after the stream's last period (a few percent of its seconds),
where ours has no further update to estimate for. And because it is our trainer's: experts that no
token reached are held still by ours alone. What the first model has learnt is one experience of no
epochs, from which the strategy takes what it takes after training (SI, which measures on the way,
takes nothing of it); one for each period where the strategy keeps a memory, which shares it out
among experiences, so that there EWC has a term for each, and costs more. Ours alone is stopped
where its loss stays finite but rises above twice what guessing costs. Of the seconds, ours alone
have those of tokenizing and of reading what is rehearsed.

The strategy's memory, importances and copies live in the object, over the whole stream, and are
not written anywhere: a run that is killed starts over.
"""

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import UpdateError
from updater.nemotron.checkpoint import freeze_routers
from updater.settings import TrainingSettings
from updater.study.peers import library
from updater.study.peers.names import FIXED_WIDTH, parts
from updater.study.peers.strategies import Means, build, wrapped
from updater.study.peers.tokens import dataset
from updater.train.encode import Encoded
from updater.train.learner import adamw
from updater.train.loop import check_finite
from updater.train.schedule import rate_fraction


@dataclass(frozen=True)
class Learnt:
    """What one update took. `examples` and `tokens` count each time that one goes into a step's
    gradient, those of reference gradients too. `losses`: of each step, penalties included.
    `seconds` of wall time, with what the strategy does for its memory and importances."""

    steps: int
    examples: int
    tokens: int
    seconds: float
    losses: tuple[float, ...]


class _OurStep(library.SupervisedPlugin):
    """Our optimizer step in Avalanche's loop: its learning rate, clipping, counting."""

    def __init__(self, training: TrainingSettings) -> None:
        super().__init__()
        self._training, self._num_steps = training, 0
        self.losses: list[float] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """A fresh optimizer, as each of our updates has."""
        strategy.optimizer.state.clear()
        self.losses = []

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Only now the length of an epoch is known: replay has made its own loader."""
        self._num_steps = len(strategy.dataloader) * self._training.epochs
        strategy.model.counting = True

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Passes for importances are not training."""
        strategy.model.counting = False

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Clipped, and at this step's learning rate."""
        loss = strategy.loss.item()
        if not math.isfinite(loss):
            raise UpdateError(
                f"training diverged: the loss of step {len(self.losses) + 1} is {loss}"
            )
        if self._training.gradient_clip:
            nn.utils.clip_grad_norm_(strategy.model.parameters(), self._training.gradient_clip)
        fraction = rate_fraction(len(self.losses), self._num_steps, self._training)
        for group in strategy.optimizer.param_groups:
            group["lr"] = self._training.learning_rate * fraction
        self.losses.append(loss)


class _Period(library.DatasetExperience):
    """One period as Avalanche meets it. Without task labels its loop would not use the examples'
    own collation."""

    task_labels = (0,)


class Peer:
    """A strategy with a model, which it changes.

    Args:
        strategy: as `names.parts` takes it, and `names.check` lets pass.
        model: the first model.
        training: epochs, batch size, optimizer and seed; `accumulate` must be 1.
        means: memory and strengths.
        longest: tokens of the stream's longest example, to which strategies that join batches pad.

    Raises:
        InputError: the strategy is not known.
    """

    def __init__(
        self,
        strategy: str,
        model: NemotronHForCausalLM,
        *,
        training: TrainingSettings,
        means: Means,
        longest: int,
    ) -> None:
        assert training.accumulate == 1, "Avalanche's loop steps after every batch"
        joins = any(name in FIXED_WIDTH for name in parts(strategy))
        self._width = longest if joins else 0
        library.RNGManager.set_random_seeds(training.seed)
        if not training.train_routers:
            freeze_routers(model)
        self._wrapped, criterion = wrapped(strategy, model)
        self._ours, self._epochs, self._num_periods = _OurStep(training), training.epochs, 0
        self._strategy = build(
            strategy,
            means,
            [self._ours],
            model=self._wrapped,
            # Frozen ones too: Avalanche looks for a group of each, and fails without.
            optimizer=adamw(dict(self._wrapped.named_parameters()), training),
            criterion=criterion,
            train_mb_size=training.batch_size,
            train_epochs=training.epochs,
            device=model.device,
            evaluator=None,
        )

    def knows(self, examples: Encoded) -> None:
        """What the first model has learnt, or a part of it: the strategy fills its memory and
        estimates its importances, and trains nothing. Before any `learn`."""
        self._strategy.train_epochs = 0
        self._train(self._next(examples))
        self._strategy.train_epochs = self._epochs

    def learn(self, examples: Encoded) -> Learnt:
        """The model has learnt the next period by the strategy; it is left in evaluation mode.

        Raises:
            UpdateError: the loss is no number, or a weight.
        """
        before = (self._wrapped.num_examples, self._wrapped.num_tokens)
        period = self._next(examples)
        started = time.perf_counter()
        self._train(period)
        seconds = time.perf_counter() - started
        check_finite(self._wrapped, f"training diverged by its last step, {len(self._ours.losses)}")
        return Learnt(
            steps=len(self._ours.losses),
            examples=self._wrapped.num_examples - before[0],
            tokens=self._wrapped.num_tokens - before[1],
            seconds=seconds,
            losses=tuple(self._ours.losses),
        )

    def _next(self, examples: Encoded) -> _Period:
        data = dataset(examples, width=self._width)
        self._num_periods += 1
        return _Period(dataset=data, current_experience=self._num_periods - 1)

    def _train(self, period: _Period) -> None:
        with warnings.catch_warnings():
            # SI squares torch tensors with numpy's function.
            warnings.filterwarnings("ignore", "__array_wrap__ must accept", DeprecationWarning)
            self._strategy.train(period, eval_streams=[])
        self._wrapped.eval()
        self._strategy.optimizer.zero_grad()
