"""How an importance is kept: float32, bfloat16, or a row and a column for every matrix.

A factored matrix costs memory O(rows + columns) in the place of O(rows * columns): Adafactor's
form for squared gradients (Shazeer & Stern 2018, arXiv 1804.04235, section 3). It is whole again
only piece by piece, in `regularizers.anchor`. Does not estimate: an estimate is whole until kept.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

FORMATS = ("float32", "bfloat16", "factored")


@dataclass(frozen=True)
class Factored:
    """F_ij ~ r_i c_j / sum_i r_i, with r the row sums and c the column sums of F.

    Of all rank-one matrices the nearest to a non-negative F in the generalised Kullback-Leibler
    divergence (Shazeer & Stern 2018, lemma 1): exact where F has rank one, and always of F's row
    and column sums.

    Attributes:
        rows: r, float32, of F's shape but 1 along the columns.
        columns: c / sum r, each column's share, float32, of F's shape but 1 along the rows.
    """

    rows: Tensor
    columns: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of what it stands for."""
        return torch.broadcast_shapes(self.rows.shape, self.columns.shape)

    def split(self, size: int) -> Iterator["Factored"]:
        """Pieces of `size` along dimension 0, as `Tensor.split` cuts them; views."""
        rows = self.rows.split(size)
        of_each = self.columns.shape[0] == self.rows.shape[0]
        columns = self.columns.split(size) if of_each else (self.columns,) * len(rows)
        return (Factored(*piece) for piece in zip(rows, columns, strict=True))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Factored":
        """The same on `device`."""
        moved = (part.to(device, non_blocking=non_blocking) for part in (self.rows, self.columns))
        return Factored(*moved)


Weight = Tensor | Factored
"""The importance of one parameter, as it is kept."""


def keep(importance: Tensor, form: str) -> Weight:
    """One parameter's importance in the format `form`.

    Factored, the last two dimensions of more than one entry are rows and columns: a stack of
    experts (E, ., .) has a row and a column for each expert, a depthwise kernel (C, 1, k) is one
    matrix. Where that saves nothing (vectors), it stays whole and float32. bfloat16 rounds each
    entry by at most 1 in 256.

    Raises:
        ValueError: no such format, or a DTensor is to be factored: its rank has only a part.
    """
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}: must be one of {', '.join(FORMATS)}")
    if form == "bfloat16":
        return importance.detach().to(torch.bfloat16)
    whole_size = importance.detach().float()
    if form == "float32":
        return whole_size
    if isinstance(importance, DTensor):
        raise ValueError("an importance is factored before it is cut into shards, not after")
    return _factored(whole_size)


def kept(importance: Mapping[str, Tensor], form: str) -> dict[str, Weight]:
    """Name -> the importance in the format `form`, one after the other. Raises: as `keep`."""
    return {name: keep(tensor, form) for name, tensor in importance.items()}


def keep_like(importance: Tensor, weight: Weight) -> Weight:
    """One parameter's importance in the format that `weight` of the same parameter has."""
    if isinstance(weight, Factored):
        return keep(importance, "factored")
    return keep(importance, "bfloat16" if weight.dtype == torch.bfloat16 else "float32")


def whole(weight: Weight) -> Tensor:
    """Every entry, float32; a float32 tensor is itself."""
    if isinstance(weight, Factored):
        return weight.rows * weight.columns
    return weight.float()


def parts(weight: Weight) -> tuple[Tensor, ...]:
    """The tensors that hold it."""
    return (weight.rows, weight.columns) if isinstance(weight, Factored) else (weight,)


def mapped(change: Callable[[Tensor], Tensor], weight: Weight) -> Weight:
    """The weight with each tensor that holds it changed."""
    if isinstance(weight, Factored):
        return Factored(change(weight.rows), change(weight.columns))
    return change(weight)


def num_bytes(weights: Mapping[str, Weight]) -> int:
    """What the weights take in memory; one number that is expanded to a parameter's shape is one
    number."""
    return sum(_num_bytes(part) for weight in weights.values() for part in parts(weight))


def _num_bytes(tensor: Tensor) -> int:
    held = (size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return math.prod(held) * tensor.element_size()


_ROWS, _COLUMNS = "#rows", "#columns"  # of a factored weight: no parameter's name has a #


def flat(weights: Mapping[str, Weight]) -> dict[str, Tensor]:
    """The weights as a file of tensors has them: a factored one as two, of names of their own."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if isinstance(weight, Factored):
            tensors |= {name + _ROWS: weight.rows, name + _COLUMNS: weight.columns}
        else:
            tensors[name] = weight
    return tensors


def flat_names(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each weight's name, and the names of its tensors in the file of `flat`, of all names in it.
    Raises: KeyError: half of one is missing."""
    names = list(names)
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in names if "#" not in name}
    for stem in (name.rpartition("#")[0] for name in names if "#" in name):
        found[stem] = (stem + _ROWS, stem + _COLUMNS)
    for missing in {part for parts in found.values() for part in parts}.difference(names):
        raise KeyError(missing)
    return found


def from_flat(tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    """The weights of which `flat` made these tensors. Raises: KeyError: half of one is missing."""
    weights: dict[str, Weight] = {}
    for name, stored in flat_names(tensors).items():
        held = [tensors[part] for part in stored]
        weights[name] = Factored(*held) if len(held) > 1 else held[0]
    return weights


def _factored(importance: Tensor) -> Weight:
    long = [dim for dim, size in enumerate(importance.shape) if size > 1]
    if len(long) < 2 or importance.numel() == 0:
        return importance
    row, column = long[-2:]
    rows = importance.sum(column, keepdim=True, dtype=torch.float64)
    columns = importance.sum(row, keepdim=True, dtype=torch.float64)
    if rows.numel() + columns.numel() >= importance.numel():
        return importance
    total = rows.sum(row, keepdim=True)
    # An expert or a matrix of nothing but zeros stays one.
    shares = torch.where(total > 0, columns / total, torch.zeros_like(columns))
    return Factored(rows.float(), shares.float())
