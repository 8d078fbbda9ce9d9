"""The anchor's pull on weights under LoRA: EWC in the space of the merged weights.

Under LoRA a weight is W0 + s B A with W0 frozen. The penalty stays that of the full weight,
strength/2 * sum F (W0 + s B A - anchor)^2 with F over the full weight, not one over A and B apart
(Zheng et al. 2026, "Revisiting Weight Regularization for Low-Rank Continual Learning", arXiv
2602.17559); its gradient reaches the factors by the chain rule. Which weights have factors, the
caller says: `updater.train.adapt` reads them out of peft's modules. The weights may be DTensors cut
by rows, under factors that every rank has whole: each rank then sees to its rows.

Where the anchor is W0 and the importance factored, F = r c^T, no matrix of the weight's size is
needed: with the Gram matrices P = A diag(c) A^T and Q = B^T diag(r) B, each rank times rank,
    penalty = strength/2 s^2 sum(P * Q),  dB = strength s^2 diag(r) B P,  dA = strength s^2 Q A
    diag(c).
Ours, by writing sum_ij r_i c_j (B A)_ij^2 as a trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regularizers.anchor import NoAnchor, QuadraticAnchor, Regularizer, chunks
from regularizers.formats import Factored, whole
from regularizers.shards import all_rows, is_shard, local, over_shards, rows_of


@dataclass(frozen=True)
class Factors:
    """s B A on top of one frozen weight.

    Attributes:
        a, b: the live factors as peft lays them out: (r, I) and (O, r) for a matrix (O, I); for
            a stack of E experts (E, O, I), (E r, I) by experts, and (O, r E) with the expert
            running fastest.
        scale: s.
        num_experts: E; None for a matrix.
    """

    a: Tensor
    b: Tensor
    scale: float
    num_experts: int | None = None

    def a_of(self, tensor: Tensor) -> Tensor:
        """A view of `tensor` (a, or its gradient): (r, I), or (E, r, I)."""
        if self.num_experts is None:
            return tensor
        return tensor.view(self.num_experts, -1, tensor.shape[-1])

    def b_of(self, tensor: Tensor) -> Tensor:
        """A view of `tensor` (b, or its gradient): (O, r), or (E, O, r)."""
        if self.num_experts is None:
            return tensor
        return tensor.view(tensor.shape[0], -1, self.num_experts).permute(2, 0, 1)

    @torch.no_grad()
    def merge_into(self, weight: Tensor) -> None:
        """`weight` += s B A, in float32 and rounded once, to its own dtype; of a shard its rows."""
        for piece in self.pieces(weight, (local(weight),)):
            piece.terms[0].add_(piece.displacement)

    def pieces(
        self, weight: Tensor, terms: Sequence[Any], beside: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Iterator["Piece"]:
        """A chunk at a time: some rows of a matrix, those of this rank; or some experts of a stack.

        Args:
            terms: of the shape that this rank's part of `weight` has, in `weight`'s memory first.
            beside: pairs that are laid out as a and b are.
        """
        mine = rows_of(weight) if is_shard(weight) else slice(None)
        pairs = ((self.a, self.b), *beside)
        of_b = tuple(self.b_of(b)[mine] for _, b in pairs)
        # A matrix's rows all need the whole of A; an expert needs its own.
        of_a = tuple(self.a_of(a)[mine if self.num_experts else ...] for a, _ in pairs)
        cut_a = () if self.num_experts is None else of_a
        for cut in chunks(*terms, *of_b, *cut_a):
            parts, rest = cut[: len(terms)], cut[len(terms) :]
            of_piece = list(zip(rest[len(pairs) :] or of_a, rest, strict=False))
            a, b = of_piece[0]
            yield Piece(parts, (self.scale * b.float()) @ a.float(), of_piece)


class Piece(NamedTuple):
    """`terms`: its rows of each. `displacement`: s B A there, float32. `pairs`: the parts of a and
    b that make it, and those of what lies beside them."""

    terms: tuple[Any, ...]
    displacement: Tensor
    pairs: list[tuple[Tensor, Tensor]]


class LowRankAnchor:
    """`held`'s penalty and pull where the weights are `frozen` but for their `factors`.

    An anchor that equals its frozen weight shares its memory from here on: `held` must not be
    used on its own afterwards. No displacement is ever whole in memory, only a chunk of it, or
    none is made at all (see the module).

    Args:
        held: anchor, importance and strength over the full weights.
        frozen: name -> W0 of every weight of the model, under the names that `held` has.
        factors: name -> what is trained on top of it; the other weights stay where they are.

    Raises:
        ValueError: an anchored name has no frozen weight, or one of another shape, or a factor's
            product is not of its weight's shape.
    """

    def __init__(
        self, held: QuadraticAnchor, frozen: Mapping[str, Tensor], factors: Mapping[str, Factors]
    ) -> None:
        for name, part in factors.items():
            made = (*part.b_of(part.b).shape[:-1], part.a.shape[-1])
            if made != tuple(frozen[name].shape):
                shapes = f"{made}, the weight {tuple(frozen[name].shape)}"
                raise ValueError(f"the factors of {name!r} make the shape {shapes}")
        self.strength = held.strength
        self._held, self._frozen, self._factors = held, frozen, factors
        self._shared = held.share(frozen)
        named = ((name, self._factored(name)) for name in factors if name in self._shared)
        self._whole = {name: weight for name, weight in named if weight is not None}

    @torch.no_grad()
    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The value at the merged weights, a float32 scalar without a graph, for the log."""
        total = torch.zeros((), dtype=torch.float64)
        for name in self._held.names:
            if (grams := self._grams_of(name)) is not None:
                pull = (grams.p * grams.q).sum(dtype=torch.float64)
                total = total.to(pull.device) + self.strength / 2 * grams.square * pull
            elif name in self._factors:
                frozen = self._frozen[name]
                pull = torch.zeros((), dtype=torch.float64, device=frozen.device)
                for piece, weight in self._pieces(name):
                    pull += (piece.displacement.square_() * weight).sum(dtype=torch.float64)
                pull = over_shards(pull, frozen)
                total = total.to(pull.device) + self.strength / 2 * pull
            elif name not in self._shared:
                held = self._held.penalty_of(name, self._frozen[name])
                total = total.to(held.device) + held
        return total.float().cpu()

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """dB += s G A^T and dA += s B^T G, where G = strength F (W0 + s B A - anchor) is what
        `held` would add to the full weight. Call it once per optimizer step."""
        if self.strength == 0:
            return
        for name in self._held.names:
            if (factors := self._factors.get(name)) is None:
                continue
            gradients = (_gradient(factors.a), _gradient(factors.b))
            if (grams := self._grams_of(name)) is not None:
                scale = self.strength * grams.square
                factors.a_of(gradients[0]).add_(grams.q @ grams.weighted_a, alpha=scale)
                factors.b_of(gradients[1]).add_(grams.weighted_b @ grams.p, alpha=scale)
                continue
            pulls = (torch.zeros_like(gradients[0]), torch.zeros_like(gradients[1]))
            for piece, weight in self._pieces(name, pulls):
                (a, b), (pull_a, pull_b) = piece.pairs
                pull = piece.displacement.mul_(weight)
                pull_b.add_(pull @ a.float().mT)
                pull_a.add_(b.float().mT @ pull)
            for gradient, part in zip(gradients, pulls, strict=True):
                part = over_shards(part, self._frozen[name])  # each rank has seen to its rows
                gradient.add_(part, alpha=self.strength * factors.scale)

    def _grams_of(self, name: str) -> "_Grams | None":
        """None where the displacement has to be made, piece by piece."""
        if name not in self._whole:
            return None
        return _grams(self._factors[name], self._whole[name])

    def _factored(self, name: str) -> Factored | None:
        """The importance, all its rows and columns, where the Gram matrices serve."""
        frozen = self._frozen[name]
        _, _, weight = self._held.term(name, frozen)
        # A stack whose matrices have a single column is factored otherwise.
        if not isinstance(weight, Factored) or weight.columns.shape[-2] != 1:
            return None
        rows, columns = (part.to(frozen.device) for part in (weight.rows, weight.columns))
        if self._factors[name].num_experts is not None:  # each expert has columns of its own
            columns = all_rows(columns, frozen)
        return Factored(all_rows(rows, frozen), columns)

    def _pieces(self, name: str, *beside: tuple[Tensor, Tensor]) -> Iterator[tuple[Piece, Tensor]]:
        """A chunk at a time, whose displacement is from the anchor; and the importance there."""
        frozen = self._frozen[name]
        terms = self._held.term(name, frozen)
        for piece in self._factors[name].pieces(frozen, terms, beside):
            here, anchor, weight = piece.terms
            if name not in self._shared:
                piece.displacement.add_(here.float() - anchor)
            yield piece, whole(weight)


class _Grams(NamedTuple):
    """For each matrix: `p` = A diag(c) A^T and `q` = B^T diag(r) B, both (rank, rank); `weighted_a`
    = A diag(c), `weighted_b` = diag(r) B. `square`: s^2. All float32."""

    p: Tensor
    q: Tensor
    weighted_a: Tensor
    weighted_b: Tensor
    square: float


def _grams(factors: Factors, weight: Factored) -> _Grams:
    a, b = factors.a_of(factors.a).float(), factors.b_of(factors.b).float()
    weighted_a, weighted_b = a * weight.columns, b * weight.rows
    return _Grams(weighted_a @ a.mT, weighted_b.mT @ b, weighted_a, weighted_b, factors.scale**2)


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    return leaf.grad


def under(
    anchor: Regularizer, frozen: Mapping[str, Tensor], factors: Mapping[str, Factors]
) -> Regularizer:
    """`anchor` for a model of which only `factors` are trained.

    Raises:
        ValueError: as `LowRankAnchor`, or an anchor whose penalty is not quadratic.
    """
    if isinstance(anchor, NoAnchor):
        return anchor
    if not isinstance(anchor, QuadraticAnchor):
        raise ValueError(f"{type(anchor).__name__} can't hold weights that are under LoRA")
    return LowRankAnchor(anchor, frozen, factors)
