"""Synaptic intelligence: how much each weight's own movement lowered the loss, while training ran.

Zenke et al. 2017, arXiv 1703.04200. Costs no extra pass, and cannot be had afterwards. Knows
neither the model nor the data. Called by `updater.train.learner` in every optimizer step.
"""

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

KEY = "path"
"""Under which a parameter's sum stands in its state."""


class Path:
    """omega_i, the sum over optimizer steps of -g_i (theta_i after - theta_i before), in nats.

    Eq. 3 of the paper, as a sum of steps. g is the loss's own gradient when `before_step` is
    called: without an anchor's pull, and before clipping. The movement is the optimizer's whole,
    with momentum, clipping, weight decay and whatever pulled.

    Args:
        parameters: name -> live parameter, where the run starts (copied now: `moved` needs it).
        states: parameter -> its state, as `torch.optim.Optimizer.state`: the sums stand in it, so
            that they survive wherever the optimizer does.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        states: MutableMapping[Tensor, dict[str, Any]],
    ) -> None:
        self._parameters, self._states = parameters, states
        self._start = {name: p.detach().clone() for name, p in parameters.items()}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def before_step(self) -> None:
        """Weights and gradients are noted. Call it when the gradient is the loss's and whole."""
        self._before = {
            name: (p.detach().clone(), p.grad.clone())
            for name, p in self._parameters.items()
            if p.grad is not None
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """The step's share is in the sums."""
        for name, (before, gradient) in self._before.items():
            parameter = self._parameters[name]
            # Not sooner: an optimizer takes a state that is not empty for one that it has made.
            state = self._states[parameter]
            if KEY not in state:
                state[KEY] = torch.zeros_like(before, dtype=torch.float32)
            state[KEY].addcmul_(gradient.float(), (before - parameter).float())
        self._before = {}

    def omega(self) -> dict[str, Tensor]:
        """name -> float32, of either sign; 0 where no step was taken."""
        return {
            name: self._states[p][KEY].clone()
            if KEY in self._states.get(p, {})
            else torch.zeros_like(p, dtype=torch.float32, requires_grad=False)
            for name, p in self._parameters.items()
        }

    def moved(self) -> dict[str, Tensor]:
        """name -> float32 theta now - theta at the start."""
        return {
            name: p.detach().float() - self._start[name].to(p.device).float()
            for name, p in self._parameters.items()
        }


def share(
    omega: Mapping[str, Tensor], moved: Mapping[str, Tensor], damping: float
) -> dict[str, Tensor]:
    """name -> omega / (moved^2 + damping), what one update adds to SI's importance (eq. 5).

    A share below 0, of a weight that moved up the loss, counts as 0: importance is never negative
    (the authors' code cuts the sum over updates there instead; ours is so independent of order).
    `damping` (xi, above 0) in squared units of the weights.

    Raises:
        ValueError: a damping that is not finite and above 0.
    """
    if not (math.isfinite(damping) and damping > 0):
        raise ValueError(f"damping is {damping}: must be finite and above 0")
    return {
        name: (value / (moved[name].square() + damping)).clamp_(min=0)
        for name, value in omega.items()
    }
