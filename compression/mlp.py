"""One MLP as tensors, of which neurons are merged.

It says down relu(up x + bias)^2, as Nemotron-H's do. relu(s z)^2 is s^2 relu(z)^2 for s of at least
0: neurons whose incoming weights are multiples of each other are one neuron, but for the scale of
their outgoing weights. Called by `compression.merging`, `compression.rebuilding` and
`compression.joining`.

Shape suffixes: n neurons, i inputs, o outputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mlp(NamedTuple):
    """`up` (n, i), `down` (o, n), and the `bias` (n,) of the neurons, where they have one. What is
    added after `down` is no part of it: merging changes nothing there."""

    up: Tensor
    down: Tensor
    bias: Tensor | None = None

    def incoming(self) -> Tensor:
        """float32 (n, i), or (n, i + 1) with the bias: the weight of an input that is always 1."""
        parts = [self.up] if self.bias is None else [self.up, self.bias[:, None]]
        return torch.cat([part.detach().float() for part in parts], dim=1)

    def with_values(self, incoming: Tensor, down: Tensor) -> "Mlp":
        """New neurons in this one's dtypes; `incoming` as `incoming()`."""
        up = incoming[:, : self.up.shape[1]].to(self.up.dtype)
        bias = None if self.bias is None else incoming[:, -1].to(self.bias.dtype)
        return Mlp(up, down.to(self.down.dtype), bias)

    def only(self, kept: Tensor, down: Tensor) -> "Mlp":
        """The neurons that stay, bit for bit, with these outgoing weights."""
        bias = None if self.bias is None else self.bias.detach()[kept]
        return Mlp(self.up.detach()[kept], down.to(self.down.dtype), bias)

    def check(self, kept: Tensor | None = None) -> None:
        """The shapes fit, and where `kept` is given some neuron stays.

        Raises:
            ValueError: they don't, or none does.
        """
        num_neurons = len(self.up)
        fits = self.up.ndim == self.down.ndim == 2 and self.down.shape[1] == num_neurons
        if not fits or (self.bias is not None and self.bias.shape != (num_neurons,)):
            shapes = ", ".join(str(tuple(one.shape)) for one in self if one is not None)
            raise ValueError(f"an MLP has shapes {shapes}: must be (n, i), (o, n) and (n,)")
        if kept is None:
            return
        if kept.dtype != torch.bool or kept.shape != (num_neurons,):
            found = f"{kept.dtype} {tuple(kept.shape)}"
            raise ValueError(f"the neurons that stay are {found}: must be bool ({num_neurons},)")
        if not bool(kept.any()):
            raise ValueError("no neuron stays: there is none to fold the others into")
