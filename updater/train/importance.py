"""How much each weight of a model matters for given examples, fair between experts.

Ties the model and its tokens to `regularizers.fisher` and `regularizers.mas`, which know neither.
Changes nothing. `estimate` is called by `updater.train.memory`, the importance step of
`updater.pipeline` and benchmarks; `spread` is for `compression.saliency`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import fisher
from regularizers.finite import NotFiniteError
from regularizers.importance import Importance, normalise_by_evidence
from regularizers.mas import output_sensitivity
from regularizers.spread import Moments, empirical_spread
from updater.errors import UpdateError
from updater.nemotron.experts import routed_tokens
from updater.nemotron.kernel_inputs import check_row
from updater.nemotron.weights import is_experts
from updater.progress import Progress
from updater.train.activations import checkpointed
from updater.train.encode import Batch, Encoded, collate, refuse_none, select
from updater.train.likelihood import completion_logits, negative_log_likelihood
from updater.train.ranks import ALONE, Ranks
from updater.train.record import RATE
from updater.train.shards import gathered

T = TypeVar("T")

SAMPLED_BATCH = 16
"""Examples a backward pass of the `sampled` estimator: larger is faster, and ranks some layers
worse. Chosen by measurement (bench/results/fisher.md): 3.4 times the examples a second of
`empirical`, at a rank correlation of 0.97 to it; 8 gives 2.3 times, 32 gives 3.7 times and ranks
the output head worse (0.81, where 16 has 0.88)."""

SAMPLED_SEED = 0
"""Of the labels that the `sampled` estimator draws: any will do, so that all runs agree. Where
processes share the examples each adds its rank, so that others draw other labels."""


def estimate(
    model: NemotronHForCausalLM,
    examples: Encoded,
    *,
    estimator: str,
    checkpoint_digest: str,
    data_digest: str,
    form: str = "float32",
    precision: str = "32-true",
    activation_checkpointing: bool = False,
    progress: bool = True,
    on_progress: Callable[[int], object] | None = None,
    ranks: Ranks = ALONE,
) -> Importance:
    """The importance of every parameter that takes a gradient, for the examples, in the format
    `form`.

    The mean over examples of the squared gradient of the log-likelihood of one example's whole
    completion (the sum over its tokens): `empirical` takes the true completions, `sampled` draws
    each completion token from the model, given the true tokens before it. `mas` is no Fisher: the
    mean over examples of the absolute gradient of the squared norm of the logits, summed over the
    completion's positions and the vocabulary, given the true tokens before each (which positions
    count is our choice: those that an answer comes from). Experts are then made comparable by the
    tokens routed to them (`normalise_by_evidence`).

    Args:
        precision: of the forward passes, as of a training: "bf16-mixed", or float32. Squares are
            added up in float32.
        activation_checkpointing: as of a training: one state for each layer is kept.
        on_progress: told how many examples are done.
        ranks: the processes that call it together. Where each has the weights whole, each sees to
            a part of the examples; in shards all go through all of them, for the gradient of one
            example is needed by itself, and the first alone has the importance, on the CPU.

    Raises:
        InputError: an example is longer than the kernels reach.
        UpdateError: no example is short enough, or the model has diverged so far that a loss or a
            gradient is no number that float32 has, or `form`.
    """
    refuse_none(examples, what="importance")
    check_row(model.config, int(examples.lengths.max()), what="an example")
    mine = _share(examples, ranks)
    with (
        overflow_told(),
        Progress("importance", len(mine), shown=progress) as shown,
        routed_tokens(model) as routed,
        _checkpointed(model, on=activation_checkpointing),
    ):
        estimate_from, size, loss = _ASKED[estimator]
        found = estimate_from(
            dict(model.named_parameters()),
            batches(model, mine, size),
            _in_precision(loss(model, ranks), model.device.type, precision),
            progress=partial(_reach, shown, on_progress),
        )
        about = (estimator, len(examples), checkpoint_digest, data_digest)
        return _kept(found, form, about, len(mine), routed, ranks)


def spread(
    model: NemotronHForCausalLM,
    examples: Encoded,
    *,
    precision: str = "32-true",
    activation_checkpointing: bool = False,
    progress: bool = True,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Moments]:
    """For every parameter that takes a gradient the mean and the standard deviation over examples
    of the squared gradient of one example, as of `empirical`: what OBD-SD prunes by.

    By in-memory names. Experts are not made comparable, as in `estimate` they are: the squared
    gradient of an example that sends an expert no token is 0, and that is how examples differ. One
    process alone, and weights that are whole.

    Args:
        precision, activation_checkpointing, on_progress: as of `estimate`.

    Raises:
        InputError: as `estimate`.
        UpdateError: no example is short enough, or a loss is no number.
    """
    refuse_none(examples, what="importance")
    check_row(model.config, int(examples.lengths.max()), what="an example")
    with (
        overflow_told(),
        Progress("spread", len(examples), shown=progress) as shown,
        _checkpointed(model, on=activation_checkpointing),
    ):
        return empirical_spread(
            dict(model.named_parameters()),
            batches(model, examples, 1),
            _in_precision(_true_loss(model, ALONE), model.device.type, precision),
            progress=partial(_reach, shown, on_progress),
        )


def _kept(
    found: dict[str, Tensor],
    form: str,
    about: tuple[str, int, str, str],
    num_mine: int,
    routed: Mapping[str, Tensor],
    ranks: Ranks,
) -> Importance:
    """All processes' estimates together, in the format `form`. Taken out of `found` one after the
    other, so that nothing else is there whole in float32.

    Args:
        about: as `Importance` has it between its tensors and its format.
        num_mine: examples that this process has seen to.
        routed: tokens of each expert, by mixer, which this process has counted.
    """
    if ranks.mesh is None:  # in shards each has gone through all examples, and counted all tokens
        routed = {mixer: ranks.total(count) for mixer, count in routed.items()}
    over_all = _over_all(num_mine, ranks)

    def kept(name: str, mean: Tensor | None) -> Importance:
        one = Importance({} if mean is None else {name: mean}, *about)
        if mean is not None and is_experts(name):
            one = normalise_by_evidence(one, {name: routed[name.partition(".experts.")[0]]})
        return one.in_format(form)

    one_by_one = [kept(name, over_all(found.pop(name))) for name in list(found)]
    tensors = {name: weight for one in one_by_one for name, weight in one.tensors.items()}
    tokens = {name: counts for one in one_by_one for name, counts in one.tokens.items()}
    return Importance(tensors, *about, format=form, tokens=tokens)


def _reach(shown: Progress, told: Callable[[int], object] | None, done: int) -> None:
    shown.reach(done)
    if told is not None:
        told(done)


def _in_precision(loss: Callable[[Batch], T], device: str, precision: str) -> Callable[..., T]:
    """The forward pass alone is in it: around the way back too, autocast would go on with its casts
    of one example's weights in the next, and in shards their gradients would come too late."""

    def cast(batch: Batch) -> T:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            return loss(batch)

    return cast


@contextmanager
def _checkpointed(model: NemotronHForCausalLM, *, on: bool) -> Iterator[None]:
    """In the block the layers are computed again on the way back, which transformers does of a
    model in training mode alone; this one computes the same in either."""
    with checkpointed(model, on=on):
        model.train(on)
        try:
            yield
        finally:
            model.eval()


def _share(examples: Encoded, ranks: Ranks) -> Encoded:
    if ranks.mesh is not None or len(examples) < ranks.world:
        return examples
    return select(examples, np.arange(ranks.rank, len(examples), ranks.world))


def _over_all(num_mine: int, ranks: Ranks) -> Callable[[Tensor], Tensor | None]:
    """What makes the mean over all examples of those of each process, which has seen to `num_mine`
    of them; of shards the whole tensor, in the CPU's memory, for the first process alone."""
    if ranks.mesh is not None:
        return partial(gathered, kept=ranks.first)
    if ranks.world == 1:
        return lambda mean: mean
    num_all = int(ranks.total(torch.tensor(num_mine)))
    return lambda mean: ranks.total(mean.mul_(num_mine)).div_(num_all)


@contextmanager
def overflow_told() -> Iterator[None]:
    """In the block, an importance that is no number is the training's failure, and not a defect.

    A loss of the last steps may be finite while the weights that they made are so large that the
    next forward pass, or the square of a gradient, is not.

    Raises:
        UpdateError: in the place of NotFiniteError.
    """
    try:
        yield
    except NotFiniteError as error:
        raise UpdateError(
            f"importance can't be had of these weights: {error}. Their training has gone too far:"
            f" lower {RATE}, or set training.gradient_clip (1.0)"
        ) from error


def batches(model: NemotronHForCausalLM, encoded: Encoded, size: int) -> Iterator[Batch]:
    """Batches of one length each, for padding would count as routed tokens."""
    waiting: dict[int, list[int]] = {}
    for example, length in enumerate(encoded.lengths.tolist()):
        alike = waiting.setdefault(length, [])
        alike.append(example)
        if len(alike) == size:
            yield collate(encoded, waiting.pop(length)).to(model.device)
    for alike in waiting.values():
        yield collate(encoded, alike).to(model.device)


def _true_loss(model: NemotronHForCausalLM, _: Ranks) -> Callable[[Batch], Tensor]:
    return lambda batch: negative_log_likelihood(model, batch)[0].sum()


def _sampled_loss(
    model: NemotronHForCausalLM, ranks: Ranks
) -> Callable[[Batch], tuple[Tensor, int]]:
    generator = torch.Generator(model.device).manual_seed(SAMPLED_SEED + ranks.rank)

    def loss(batch: Batch) -> tuple[Tensor, int]:
        logits_cv, _, _ = completion_logits(model, batch)
        chances_cv = logits_cv.detach().softmax(-1)
        if not bool(chances_cv.isfinite().all()):  # of which torch draws nothing
            raise NotFiniteError("the model's answers are no chances: it diverges")
        drawn_c = torch.multinomial(chances_cv, 1, generator=generator)[:, 0]
        if ranks.mesh is not None:  # all go through the same examples
            drawn_c = ranks.same(drawn_c)
        size = len(batch.tokens_bl)
        return functional.cross_entropy(logits_cv, drawn_c, reduction="sum") / size, size

    return loss


def _squared_norm(model: NemotronHForCausalLM, _: Ranks) -> Callable[[Batch], Tensor]:
    return lambda batch: completion_logits(model, batch)[0].square().sum()


_Estimator = Callable[..., dict[str, Tensor]]
_ASKED: Mapping[str, tuple[_Estimator, int, Callable[[NemotronHForCausalLM, Ranks], Callable]]] = {
    "empirical": (fisher.ESTIMATORS["empirical"], 1, _true_loss),
    "sampled": (fisher.ESTIMATORS["sampled"], SAMPLED_BATCH, _sampled_loss),
    "mas": (output_sensitivity, 1, _squared_norm),
}
"""Estimator -> what estimates, examples a batch, and what makes its loss from the model."""
