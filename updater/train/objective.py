"""How a micro-batch becomes a gradient: one class an objective, which the trainer asks.

The likelihood of new and rehearsed examples alike is here. What holds on to the base's answers
(`updater.train.distilled`) or projects gradients (`updater.train.projected`) is a room of its own.
Not the pull of an anchor: that is `regularizers.anchor`'s, and comes on top. Called by
`updater.train.learner`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.train.likelihood import negative_log_likelihood
from updater.train.schedule import MicroBatch


class Objected(NamedTuple):
    """What an objective makes of a micro-batch of b examples.

    `loss`: the scalar to be differentiated. `sums_b`, `counts_b`: each example's negative
    log-likelihood (nats, without a graph) and its completion tokens, for the log.
    """

    loss: Tensor
    sums_b: Tensor
    counts_b: Tensor


class Objective(Protocol):
    """What the trainer asks of any of them, in this order: `loss` for every micro-batch of a step,
    then `before_step` once, when the gradients are accumulated and unscaled, and the anchor has
    not pulled yet."""

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected: ...

    def before_step(self, parameters: Mapping[str, Tensor]) -> None: ...

    @property
    def fingerprint(self) -> str:
        """Of all that decides what it answers, for a run that is resumed."""
        ...


class Likelihood:
    """The mean negative log-likelihood per completion token of all examples, new and rehearsed."""

    fingerprint = "likelihood"

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        """The sum over the micro-batch, divided by its normaliser."""
        sums_b, counts_b = negative_log_likelihood(model, batch.batch)
        return Objected(sums_b.sum() / batch.normaliser, sums_b.detach(), counts_b)

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """No gradient is touched."""
