"""The likelihood of what is new, by gradients that do not undo what is rehearsed: A-GEM.

The projection itself is `regularizers.project`'s. Called by `updater.train.learner`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.project import project
from updater.train.encode import Batch
from updater.train.likelihood import negative_log_likelihood
from updater.train.objective import Objected
from updater.train.schedule import MicroBatch


class Projected:
    """The negative log-likelihood of the new examples alone, over all completion tokens of the
    step, rehearsed ones too, as every objective's; the gradient is projected once per optimizer
    step so that it agrees with that of the rehearsed ones. AdamW does not see that the new ones'
    share makes it smaller; the clipping of its norm does.

    Chaudhry et al. 2018 (A-GEM, arXiv 1812.00420, eq. 11), with the step's rehearsed examples as
    the memory's batch. The new and the rehearsed part each go forward and backward by themselves,
    so a step costs what it costs when both are learnt; a second gradient is held. What AdamW makes
    of the gradient may still disagree with the past: the paper's guarantee is for plain SGD.

    Without rehearsed examples nothing is projected. Under 16-mixed the reference would be lost, as
    only Lightning's own backward pass scales its loss: `updater.settings` refuses the two together.
    """

    fingerprint = "agem"

    def __init__(self) -> None:
        self._reference: dict[str, Tensor] = {}

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        """That of the new examples, divided by the normaliser; the reference gradient has grown
        by that of the rehearsed ones."""
        # The rehearsed first, whose graph is gone before the new ones' is built.
        old_b, old_counts_b = _likelihood(model, batch.batch, slice(batch.num_new, None))
        self._refer(model, old_b.sum() / batch.normaliser)
        new_b, new_counts_b = _likelihood(model, batch.batch, slice(None, batch.num_new))
        sums_b = torch.cat([new_b.detach(), old_b.detach()])
        counts_b = torch.cat([new_counts_b, old_counts_b])
        return Objected(new_b.sum() / batch.normaliser, sums_b, counts_b)

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """The accumulated gradient agrees with the accumulated reference, which is gone."""
        reference, self._reference = self._reference, {}
        gradients = {
            name: gradient for name in reference if (gradient := parameters[name].grad) is not None
        }
        project(gradients, reference)
        for name, gradient in gradients.items():
            parameters[name].grad = gradient

    def _refer(self, model: NemotronHForCausalLM, loss: Tensor) -> None:
        leaves = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # Each operation goes back in the precision in which it went forward.
        with torch.autocast(loss.device.type, enabled=False):
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                before = self._reference.get(name)
                self._reference[name] = gradient if before is None else before + gradient


def _likelihood(
    model: NemotronHForCausalLM, batch: Batch, examples: slice
) -> tuple[Tensor, Tensor]:
    """sums_b and counts_b of these examples; differentiable, if by nothing, where there are none:
    a small batch may be all new or all rehearsed."""
    part = Batch(
        batch.tokens_bl[examples], batch.targets_bl[examples], lengths=batch.lengths[examples]
    )
    if len(part.tokens_bl):
        return negative_log_likelihood(model, part)
    nothing_b = torch.zeros(0, device=part.tokens_bl.device, requires_grad=True)
    return nothing_b, part.targets_bl.sum(1)
