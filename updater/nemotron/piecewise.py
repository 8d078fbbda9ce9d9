"""What a layer's routed experts make of tokens, piece by piece, and the way back.

A piece (`updater.nemotron.pieces`) is gathered, computes, and is gone; on the way back it is
gathered and computed again, and its gradient, in the dtype that it was gathered in, goes into
shards at once. Called by `updater.nemotron.grouped`.

Shape suffixes: t tokens, k experts of a token, s = t k pairs of both, sorted by piece, d what comes
in and goes out.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import grouped_mm_experts_forward

from regularizers.shards import local
from updater.nemotron.pieces import STACKS, Coming, Pieces


def forward(
    experts: Any, hidden_td: Tensor, index_tk: Tensor, weights_tk: Tensor, dtype: torch.dtype
) -> Tensor:
    """What these experts, which are cut, make of the tokens in `dtype`, as transformers' grouped
    product has it. Each process has to ask, whatever tokens it has, and to go back."""
    pieces = Pieces.of(experts, dtype)
    of_factors = [side for part in pieces.factors.values() for side in (part.a, part.b)]
    leaves = (*pieces.stacks.values(), *of_factors)
    made: Tensor = _Piecewise.apply(pieces, dtype, hidden_td, index_tk, weights_tk, *leaves)
    return made


class _Piecewise(torch.autograd.Function):
    """Keeps what came in, and computes the rest again.

    What comes into a product is float32, so that what comes out is too, and is summed over a
    token's experts before it is rounded; the product itself is of a smaller dtype.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pieces: Pieces,
        dtype: torch.dtype,
        hidden_td: Tensor,
        index_tk: Tensor,
        weights_tk: Tensor,
        *leaves: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden_td, index_tk, weights_tk)
        ctx.pieces, ctx.dtype, factors = pieces, dtype, leaves[len(STACKS) :]
        ctx.factors = factors
        route = _Route(pieces, index_tk)
        hidden_sd, weights_s = route.of_tokens(hidden_td), route.of_pairs(weights_tk)
        made_sd = torch.empty_like(hidden_sd)

        def go(piece: int, stacks: Sequence[Tensor]) -> None:  # a piece is gone when it ends
            some = route.pairs(piece)
            whole = _Whole(pieces, piece, stacks, factors, dtype)
            made_sd[some] = whole.of(hidden_sd[some], route.places[some], weights_s[some])

        for piece, stacks in enumerate(pieces.gathered()):
            go(piece, stacks)
        return route.to_tokens(made_sd).to(hidden_td.dtype)

    @staticmethod
    def backward(ctx: Any, gradient_td: Tensor) -> Any:
        hidden_td, index_tk, weights_tk = ctx.saved_tensors
        pieces: Pieces = ctx.pieces
        needs_hidden, _, needs_weights, *needs = ctx.needs_input_grad[2:]
        route = _Route(pieces, index_tk)
        hidden_sd, weights_s = route.of_tokens(hidden_td), route.of_pairs(weights_tk)
        gradient_sd = route.of_tokens(gradient_td)
        to_hidden_sd, to_weights_s = torch.empty_like(hidden_sd), torch.empty_like(weights_s)
        factors = [factor.detach() for factor in ctx.factors]
        totals = _Totals(pieces, factors, needs)

        def go_back(piece: int, stacks: Sequence[Tensor]) -> None:  # a piece is gone when it ends
            some = route.pairs(piece)
            hidden, weights = hidden_sd[some].detach(), weights_s[some].detach()
            asked = [hidden, weights, *compress((*stacks, *factors), needs)]
            with torch.enable_grad():
                for tensor in asked:
                    tensor.requires_grad_()
                whole = _Whole(pieces, piece, stacks, factors, ctx.dtype)
                made = whole.of(hidden, route.places[some], weights)
            found = _gradients(made, asked, gradient_sd[some])
            to_hidden_sd[some], to_weights_s[some] = found[:2]
            totals.add(piece, found[2:])

        for piece, stacks in enumerate(pieces.gathered()):
            go_back(piece, stacks)
        to_hidden = route.to_tokens(to_hidden_sd).to(hidden_td.dtype) if needs_hidden else None
        to_weights = route.to_pairs(to_weights_s) if needs_weights else None
        return None, None, to_hidden, None, to_weights, *totals.done()


def _gradients(made: Tensor, asked: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor]:
    if not len(made):  # no token came to this piece
        return [torch.zeros_like(tensor) for tensor in asked]
    return torch.autograd.grad(made, asked, gradient)


class _Route:
    """Which pairs of a token and an expert of its go through which piece."""

    def __init__(self, pieces: Pieces, index_tk: Tensor) -> None:
        piece_s, place_s = pieces.places(index_tk.flatten())
        # Stable: sums over an expert's tokens are always in the same order.
        keys_s, self._order_s = torch.sort(piece_s * pieces.size + place_s, stable=True)
        self._back_s = torch.argsort(self._order_s)
        self._num_experts = index_tk.shape[1]
        self.places = keys_s % pieces.size
        counts = torch.bincount(keys_s // pieces.size, minlength=len(pieces))
        # Read once for all pieces: a GPU finishes what is before it first.
        self._ends = [0, *counts.cumsum(0).tolist()]

    def pairs(self, piece: int) -> slice:
        """Those that go through it."""
        return slice(self._ends[piece], self._ends[piece + 1])

    def of_tokens(self, tensor_td: Tensor) -> Tensor:
        """(s, d) float32: each token once for each of its experts."""
        return tensor_td[self._order_s // self._num_experts].float()

    def of_pairs(self, tensor_tk: Tensor) -> Tensor:
        """(s,) of (t, k)."""
        return tensor_tk.flatten()[self._order_s]

    def to_tokens(self, tensor_sd: Tensor) -> Tensor:
        """(t, d), the sum over a token's experts, always in the same order."""
        return tensor_sd[self._back_s].unflatten(0, (-1, self._num_experts)).sum(1)

    def to_pairs(self, tensor_s: Tensor) -> Tensor:
        """(t, k) of (s,)."""
        return tensor_s[self._back_s].unflatten(0, (-1, self._num_experts))


class _Whole:
    """A piece's experts, as transformers' grouped product asks for a layer's.

    Args:
        stacks: of the piece, as they were gathered.
        factors: A and B of each stack that has any.
        dtype: of the product.
    """

    def __init__(
        self,
        pieces: Pieces,
        piece: int,
        stacks: Sequence[Tensor],
        factors: Sequence[Tensor],
        dtype: torch.dtype,
    ) -> None:
        self._experts, self.num_experts = pieces.experts, pieces.size
        self._stacks = dict(zip(STACKS, stacks, strict=True))
        sides = iter(factors)
        for name, part in pieces.factors.items():
            stack = self._stacks[name]
            here = pieces.experts_at(piece, stack.device)
            a, b = part.a_of(next(sides))[here], part.b_of(next(sides))[here]
            with torch.autocast(stack.device.type, enabled=False):  # as peft adds them
                sum_ = torch.baddbmm(stack, b.to(stack.dtype), a.to(stack.dtype), alpha=part.scale)
            self._stacks[name] = sum_
        self._stacks = {name: stack.to(dtype) for name, stack in self._stacks.items()}

    def __getattr__(self, name: str) -> Any:
        stacks = self.__dict__["_stacks"]
        return stacks[name] if name in stacks else getattr(self._experts, name)

    def of(self, hidden_sd: Tensor, places_s: Tensor, weights_s: Tensor) -> Tensor:
        """(s, d): what each pair's expert makes of its token, weighed."""
        if not len(hidden_sd):  # which the product doesn't take
            return hidden_sd
        experts: Any = self
        return grouped_mm_experts_forward(experts, hidden_sd, places_s[:, None], weights_s[:, None])


class _Totals:
    """The gradients of a layer's stacks and factors, added up piece by piece.

    Args:
        needs: which of the stacks, and then of the factors, take one.
    """

    def __init__(self, pieces: Pieces, factors: Sequence[Tensor], needs: Sequence[bool]) -> None:
        self._pieces = pieces
        leaves = (*map(local, pieces.stacks.values()), *factors)
        # Each row of a stack is in one piece, and written once.
        self._totals = [
            torch.zeros_like(leaf, requires_grad=False) if needed else None
            for leaf, needed in zip(leaves, needs, strict=True)
        ]
        self._coming: list[tuple[Tensor, Coming]] = []

    def add(self, piece: int, found: Sequence[Tensor]) -> None:
        """Those of a piece, of what takes any. A stack's are on their way while the next piece
        computes."""
        self._arrive()
        totals = [(n, total) for n, total in enumerate(self._totals) if total is not None]
        for (number, total), gradient in zip(totals, found, strict=True):
            if number < len(STACKS):
                rows = self._pieces.of_piece(total, piece)
                self._coming.append((rows, self._pieces.mean_over_all(gradient)))
            else:
                total += gradient

    def done(self) -> list[Tensor | None]:
        """All of them; of the stacks as shards."""
        self._arrive()
        of_stacks, of_factors = self._totals[: len(STACKS)], self._totals[len(STACKS) :]
        shards = map(self._pieces.as_shard, STACKS, of_stacks)
        return [*shards, *of_factors]

    def _arrive(self) -> None:
        for rows, coming in self._coming:
            rows.copy_(coming.arrived()[: len(rows)])
        self._coming = []
