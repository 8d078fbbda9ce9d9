"""Language-model examples in the shape that Avalanche's classification strategies take.

An example is x, y and a task label. x_b2l packs tokens and what each of them is (padding, prompt
or completion), for a strategy hands the model nothing but x; y_bl repeats the completion tokens as
targets, `IGNORED` elsewhere. The model in its wrapper answers x with logits; the criterion of
logits and y is our loss, the mean negative log-likelihood per completion token.

Shape suffixes: b examples of a batch, l positions, c completion tokens of a batch, v vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.study.peers.library import (
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
)
from updater.train.encode import Batch, Encoded, collate
from updater.train.likelihood import completion_logits

IGNORED = -100
"""The target of a position that the loss leaves out: what torch's cross_entropy ignores."""

PADDING, PROMPT, COMPLETION = 0, 1, 2

Item = tuple[Tensor, Tensor]


class _Examples(torch.utils.data.Dataset[Item]):
    """The examples one by one, padded to `width` positions, or not at all at 0. Made once: it is
    not Avalanche's time that our packing takes."""

    def __init__(self, encoded: Encoded, width: int) -> None:
        self._items = [_item(collate(encoded, [n]), width) for n in range(len(encoded))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, example: int) -> Item:
        return self._items[example]


def _item(batch: Batch, width: int) -> Item:
    tokens_l, is_target_l = batch.tokens_bl[0], batch.targets_bl[0]
    kinds_l = torch.where(is_target_l, COMPLETION, PROMPT)
    y_l = torch.where(is_target_l, tokens_l, IGNORED)
    more = (0, max(width - len(tokens_l), 0))
    x_2l = functional.pad(torch.stack([tokens_l, kinds_l]), more, value=PADDING)
    return x_2l, functional.pad(y_l, more, value=IGNORED)


def dataset(encoded: Encoded, *, width: int = 0) -> TaskAwareSupervisedClassificationDataset:
    """The examples as an Avalanche dataset, each padded to `width` positions (0: to the longest of
    its batch).

    All examples are of one task and of one class, 0: what a strategy would balance or mask by
    class has no counterpart in a vocabulary, and the tokens do not depend on it.
    """
    return TaskAwareSupervisedClassificationDataset(
        [_Examples(encoded, width)],
        data_attributes=[
            DataAttribute(ConstantSequence(0, len(encoded)), "targets"),
            DataAttribute(
                ConstantSequence(0, len(encoded)), "targets_task_labels", use_in_getitem=True
            ),
        ],
        collate_fn=padded,
    )


def padded(items: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """x_b2l, y_bl and whatever follows, on the right padded to the longest of the batch."""
    longest = max(item[0].shape[-1] for item in items)

    def stacked(part: int, value: int) -> Tensor:
        return torch.stack(
            [
                functional.pad(item[part], (0, longest - item[part].shape[-1]), value=value)
                for item in items
            ]
        )

    rest = [torch.as_tensor(part) for part in list(zip(*items, strict=True))[2:]]
    return [stacked(0, PADDING), stacked(1, IGNORED), *rest]


class Answering(nn.Module):
    """The model as Avalanche calls it. While `counting`, the examples and tokens (prompt and
    completion, no padding) of every forward pass with a gradient are added up."""

    def __init__(self, model: NemotronHForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.counting, self.num_examples, self.num_tokens = False, 0, 0

    def forward(self, x_b2l: Tensor) -> Tensor:
        """logits_cv of the completion tokens, one after the other."""
        return completion_logits(self.model, self._seen(x_b2l))[0]

    def _seen(self, x_b2l: Tensor) -> Batch:
        tokens_bl, kinds_bl = x_b2l.unbind(1)
        if self.counting and torch.is_grad_enabled():
            self.num_examples += len(x_b2l)
            self.num_tokens += int((kinds_bl != PADDING).sum())
        return Batch(tokens_bl, kinds_bl == COMPLETION)


class AnsweringEverywhere(Answering):
    """The same for a strategy that cuts the model's answer by example: logits_bvl of every
    position, against y_bl as torch's cross_entropy takes it. lm_head sees all positions, which
    costs what `Answering` saves."""

    def forward(self, x_b2l: Tensor) -> Tensor:
        """logits_bvl, those of position l for the token at l; of the first, for which there are
        none, zeros."""
        tokens_bl = self._seen(x_b2l).tokens_bl
        logits_blv = self.model(input_ids=tokens_bl, use_cache=False).logits.float()
        return functional.pad(logits_blv[:, :-1], (0, 0, 1, 0)).transpose(1, 2)


def likelihood(logits_cv: Tensor, y_bl: Tensor) -> Tensor:
    """The criterion for `Answering`: nats per completion token, a scalar."""
    return functional.cross_entropy(logits_cv, y_bl[y_bl != IGNORED])


Criterion = Callable[[Tensor, Tensor], Tensor]
