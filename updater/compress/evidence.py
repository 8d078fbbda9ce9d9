"""What a model's linears, neurons and experts are given and say on examples: one forward pass.

No gradient is asked for, and no weight changed. Hooks look at what comes in, and each expert's own
answers are computed again: however transformers runs the experts, by a loop or as one grouped
product, the evidence is the same. Not the gradients' evidence (`updater.train.importance`) and no
scores (`compression`).

Shape suffixes: t tokens, k experts of a token, e experts, d width, n neurons, i inputs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHExperts,
    NemotronHForCausalLM,
    NemotronHTopkRouter,
)

from compression.experts import ExpertEvidence
from updater.errors import UpdateError
from updater.nemotron.weights import released_name
from updater.progress import Progress
from updater.train.encode import Encoded, refuse_none
from updater.train.importance import batches

_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Gathered:
    """What was seen, on the CPU. Names are the released ones of the weights, those of experts one
    by one.

    Attributes:
        input_norms: of every linear, router and head among them, float32 (i,): the root of the sum
            over tokens of each input's square. Of an expert, over the tokens that came to it.
        num_tokens: over how many tokens that is.
        moments: of the linears that were asked for, float32 (i, i): the mean over tokens of
            input_a * input_b, 0 where no token came.
        experts: by the layer's index. Gates are as the router gives them, its scaling factor in
            them; an answer's norm is of what the expert itself says, where there is a latent
            projection before that.
    """

    input_norms: Mapping[str, Tensor]
    num_tokens: Mapping[str, int]
    moments: Mapping[str, Tensor]
    experts: Mapping[int, ExpertEvidence]


@torch.no_grad()
def gather(
    model: NemotronHForCausalLM,
    examples: Encoded,
    *,
    batch_size: int,
    moments_of: Collection[str] = (),
    progress: bool = True,
) -> Gathered:
    """The evidence of all tokens of the examples, prompts and completions.

    Sums are in float64, moments in float32. The head's inputs are those at all positions. A
    model's weights must be whole, not in shards; it is left in evaluation mode.

    Args:
        batch_size: examples of one length that go through together: padding would count as tokens.
        moments_of: released names of weights whose inputs' moments are kept. Each takes 4 i^2
            bytes of the host's memory: an expert of 1,856 neurons 14 MB, a dense MLP of 21,504
            1.8 GB. On the model's device there is one at a time, of one batch.

    Raises:
        UpdateError: there is no example, or the model says what is no number.
        ValueError: moments are asked for of what is no linear's weight.
    """
    refuse_none(examples, what="compression")
    model.eval()
    seen = _Seen(moments_of)
    with Progress("evidence", len(examples), shown=progress) as shown, _watched(model, seen):
        for batch in batches(model, examples, batch_size):
            hidden = model.model(input_ids=batch.tokens_bl, use_cache=False).last_hidden_state
            seen.add(_HEAD, hidden)
            shown.update(len(batch.tokens_bl))
    return seen.gathered()


class _Seen:
    def __init__(self, moments_of: Collection[str]) -> None:
        self._squares: dict[str, Tensor] = {}
        self._moments: dict[str, Tensor] = {}
        self._num_tokens: dict[str, int] = {}
        self._wanted = frozenset(moments_of)
        self.experts: dict[int, ExpertEvidence] = {}

    def expect(self, name: str, weight: Tensor) -> None:
        """Also what no token comes to is in the evidence."""
        width = weight.shape[-1]
        self._squares[name] = torch.zeros(width, dtype=torch.float64, device=weight.device)
        self._num_tokens[name] = 0
        if name in self._wanted:
            # Of all experts together they are more than the model: Nano's are 41 GB.
            self._moments[name] = torch.zeros(width, width)

    def check(self) -> None:
        """All that was asked for is expected."""
        for name in sorted(self._wanted - self._squares.keys()):
            raise ValueError(f"moments are asked for of {name!r}, which is no linear's weight")

    def add(self, name: str, inputs: Tensor) -> None:
        """Inputs (.., i) of the weight of that name."""
        inputs_ti = inputs.flatten(0, -2).float()
        self._squares[name] += inputs_ti.square().sum(0, dtype=torch.float64)
        self._num_tokens[name] += len(inputs_ti)
        if name in self._wanted:
            self._moments[name] += (inputs_ti.T @ inputs_ti).cpu()

    def gathered(self) -> Gathered:
        for name, squares in self._squares.items():
            if not bool(squares.isfinite().all()):
                raise UpdateError(f"what comes to {name} is no number: the model has diverged")
        return Gathered(
            input_norms={n: one.sqrt().float().cpu() for n, one in self._squares.items()},
            num_tokens=self._num_tokens,
            moments={
                name: one.div_(max(1, self._num_tokens[name]))
                for name, one in self._moments.items()
            },
            experts=self.experts,
        )


@contextmanager
def _watched(model: NemotronHForCausalLM, seen: _Seen) -> Iterator[None]:
    """In the block, what comes to the modules of the trunk is seen; the head's weight is expected
    only, for the trunk is all that needs to be run."""
    seen.expect(_HEAD, model.lm_head.weight)
    handles = []
    for name, module in model.model.named_modules(prefix="model"):
        if isinstance(module, nn.Linear | NemotronHTopkRouter):
            weight = released_name(f"{name}.weight")
            seen.expect(weight, module.weight)
            handles.append(module.register_forward_pre_hook(_linear(weight, seen)))
        elif isinstance(module, NemotronHExperts):
            for kind in ("up_proj", "down_proj"):
                for expert, slice_ in enumerate(getattr(module, kind)):
                    seen.expect(released_name(f"{name}.{kind}", expert), slice_)
            layer = int(name.split(".")[2])
            seen.experts[layer] = ExpertEvidence(module.num_experts)
            handles.append(module.register_forward_pre_hook(_experts(name, layer, seen)))
    try:
        seen.check()
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(name: str, seen: _Seen) -> Callable[..., None]:
    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.add(name, inputs[0])

    return look


def _experts(name: str, layer: int, seen: _Seen) -> Callable[..., None]:
    def look(experts: NemotronHExperts, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        hidden_td, chosen_tk, gates_tk = inputs
        norms_tk = torch.zeros(chosen_tk.shape, dtype=torch.float64, device=hidden_td.device)
        for expert in chosen_tk.unique().tolist():
            token, place = torch.where(chosen_tk == expert)
            given_td = hidden_td[token]
            neurons_tn = experts.act_fn(functional.linear(given_td, experts.up_proj[expert]))
            said_td = functional.linear(neurons_tn, experts.down_proj[expert])
            seen.add(released_name(f"{name}.up_proj", expert), given_td)
            seen.add(released_name(f"{name}.down_proj", expert), neurons_tn)
            norms_tk[token, place] = said_td.double().norm(dim=-1)
        seen.experts[layer].add(chosen_tk, gates_tk, norms_tk)

    return look
