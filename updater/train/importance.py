"""How much each weight of a model matters for given examples: the Fisher, fair between experts.

Ties the model and its tokens to `regularizers.fisher`, which knows neither. Changes nothing.
Called by the importance step of `updater.pipeline` and by benchmarks.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers import fisher
from regularizers.importance import Importance, normalise_by_evidence
from updater.errors import UpdateError
from updater.nemotron.experts import routed_tokens
from updater.nemotron.weights import is_experts
from updater.progress import Progress
from updater.train.encode import (
    Batch,
    Encoded,
    collate,
    completion_logits,
    encode,
    negative_log_likelihood,
)

SAMPLED_BATCH = 8
"""Examples a backward pass of the `sampled` estimator: larger is faster and noisier. Chosen, not
derived."""


def estimate(
    model: NemotronHForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    table: pa.Table,
    *,
    estimator: str,
    max_length_tokens: int,
    checkpoint_digest: str,
    data_digest: str,
    seed: int = 0,
    progress: bool = True,
) -> Importance:
    """The importance of every parameter that takes a gradient, for the examples in `table`.

    The mean over examples of the squared gradient of the log-likelihood of one example's whole
    completion (the sum over its tokens): `empirical` takes the true completions, `sampled` draws
    each completion token from the model, given the true tokens before it. Experts are then made
    comparable by the tokens routed to them (`normalise_by_evidence`).

    Raises:
        UpdateError: no example is short enough.
    """
    encoded = encode(tokenizer, table, max_length_tokens=max_length_tokens)
    if not len(encoded):
        raise UpdateError(
            f"importance has no example to look at: all {table.num_rows} are longer than"
            f" model.max_length_tokens = {max_length_tokens}"
        )
    model.eval()
    parameters = dict(model.named_parameters())
    shown = Progress("importance", len(encoded), shown=progress)
    with routed_tokens(model) as routed:
        if estimator == "empirical":
            found = fisher.empirical(
                parameters,
                _batches(model, encoded, 1),
                lambda batch: negative_log_likelihood(model, batch)[0].sum(),
                progress=shown.reach,
            )
        else:
            found = fisher.sampled(
                parameters,
                _batches(model, encoded, SAMPLED_BATCH),
                _sampled_loss(model, seed),
                progress=shown.reach,
            )
    shown.close()
    importance = Importance(found, estimator, len(encoded), checkpoint_digest, data_digest)
    tokens = {name: routed[name.partition(".experts.")[0]] for name in found if is_experts(name)}
    return normalise_by_evidence(importance, tokens)


def _batches(model: NemotronHForCausalLM, encoded: Encoded, size: int) -> Iterator[Batch]:
    """Batches of one length each, for padding would count as routed tokens."""
    waiting: dict[int, list[int]] = {}
    for example, length in enumerate(encoded.lengths.tolist()):
        alike = waiting.setdefault(length, [])
        alike.append(example)
        if len(alike) == size:
            yield collate(encoded, waiting.pop(length)).to(model.device)
    for alike in waiting.values():
        yield collate(encoded, alike).to(model.device)


def _sampled_loss(
    model: NemotronHForCausalLM, seed: int
) -> Callable[[Batch], tuple[torch.Tensor, int]]:
    generator = torch.Generator(model.device).manual_seed(seed)

    def loss(batch: Batch) -> tuple[torch.Tensor, int]:
        logits_cv, _, _ = completion_logits(model, batch)
        chances_cv = logits_cv.detach().softmax(-1)
        drawn_c = torch.multinomial(chances_cv, 1, generator=generator)[:, 0]
        size = len(batch.tokens_bl)
        return functional.cross_entropy(logits_cv, drawn_c, reduction="sum") / size, size

    return loss
