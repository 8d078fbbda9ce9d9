"""How much each weight matters, what it was estimated from, and a file that keeps both.

Names are the in-memory names of the parameters. Does not estimate (`fisher` does) and does not
hold weights (`anchor` does). The importance step saves, the trainer loads.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from regularizers.finite import check_weight
from regularizers.formats import (
    Factored,
    Weight,
    flat,
    from_flat,
    keep,
    num_bytes,
    parts,
    whole,
)
from regularizers.stored import digest, dtype_of, opened


@dataclass(frozen=True)
class Importance:
    """name -> weight >= 0, and where it comes from.

    Attributes:
        tensors: of the parameters' names and shapes, in the format `format`.
        estimator: what it was found by: a name in `fisher.ESTIMATORS`, "mas", or what the training
            recorded ("optimizer", "path").
        num_examples: how many examples it is the mean over, or were trained on.
        checkpoint_digest: of the weights that it was estimated at.
        data_digest: of the examples that it was estimated on.
        format: one of `formats.FORMATS`, in which every tensor is kept.
        tokens: name of a fused expert tensor -> how many tokens came to each expert, where the
            experts were made comparable by that (`normalise_by_evidence`).

    Raises:
        ValueError: a tensor is of another type than its format has, or has a negative entry.
        NotFiniteError: a tensor has an entry that is not finite.
    """

    tensors: Mapping[str, Weight]
    estimator: str
    num_examples: int
    checkpoint_digest: str
    data_digest: str
    format: str = "float32"
    tokens: Mapping[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = dtype_of(self.format)
        for name, weight in self.tensors.items():
            if isinstance(weight, Factored) and self.format != "factored":
                raise ValueError(f"importance of {name!r} is factored: must be {self.format}")
            for tensor in parts(weight):
                if tensor.dtype != wanted:
                    raise ValueError(f"importance of {name!r} is {tensor.dtype}: must be {wanted}")
                check_weight(name, tensor)

    @property
    def num_bytes(self) -> int:
        """What the tensors take, in memory and, but for names, on disk."""
        return num_bytes(self.tensors)

    def in_format(self, form: str) -> "Importance":
        """The same, kept in another format of `formats`. Raises ValueError: no such format."""
        if form == self.format:
            return self
        tensors = {name: keep(whole(weight), form) for name, weight in self.tensors.items()}
        return dataclasses.replace(self, tensors=tensors, format=form)


def save(importance: Importance, path: Path) -> None:
    """`path` holds the importance as safetensors, whole or not at all.

    Raises:
        OSError: the folder is not there, or the disk is full; nothing is left behind.
    """
    flattened = flat(importance.tensors)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in flattened.items()}
    about = {name: getattr(importance, name) for name in _ABOUT} | {
        "sha256": digest(sorted(tensors.items()))
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, {"importance": json.dumps(about, sort_keys=True)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> Importance:
    """What `save` wrote, bit for bit, on the CPU.

    Raises:
        ValueError: the file is damaged, or is no importance.
        FileNotFoundError: no such file.
    """
    with opened(path) as (file, about):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop("sha256") != digest(sorted(tensors.items())):
            raise ValueError("its tensors are not those that were saved")
        # A file of before there were formats names none: float32.
        return Importance(from_flat(tensors), **about)


def normalise_by_evidence(importance: Importance, tokens: Mapping[str, Tensor]) -> Importance:
    """The importance of each expert as if every expert had been routed its fair share of tokens.

    Our own definition. Only tokens routed to an expert reach its Fisher, which so grows with their
    number: F_e is replaced by F_e * (T / E) / t_e, where t_e of the T routed tokens went to expert
    e of E. Under balanced routing nothing changes. An expert without a token has no evidence, which
    is not "unimportant": it takes the mean over the experts that have some, entry by entry.

    Args:
        importance: as estimated.
        tokens: name of a fused expert tensor (E, ., .) -> how many tokens were routed to each
            expert, (E,), on the examples of the estimate. Other tensors stay as they are.

    Raises:
        ValueError: a name or shape that does not fit, a negative count, no token at all, or an
            importance that is not float32 any more.
    """
    if importance.format != "float32":
        raise ValueError(f"an importance in {importance.format} can't be made fair to experts")
    tensors = dict(importance.tensors)
    for name, count in tokens.items():
        if name not in tensors:
            raise ValueError(f"tokens are given for {name!r}, of which there is no importance")
        tensors[name] = _per_expert(name, whole(tensors[name]), count)
    counts = {name: count.long().tolist() for name, count in tokens.items()}
    return dataclasses.replace(importance, tensors=tensors, tokens=counts)


def as_estimated(fisher: Tensor, tokens: Sequence[int], expert: int) -> Tensor:
    """What was estimated of one expert, which `normalise_by_evidence` has made comparable: 0 where
    no token came, for then nothing depends on it. Its slice of the fused tensor, and the tokens
    that came to each.
    """
    mean = sum(tokens) / len(tokens)
    return fisher * (tokens[expert] / mean)


_ABOUT = ("estimator", "num_examples", "checkpoint_digest", "data_digest", "format", "tokens")


def _per_expert(name: str, fisher: Tensor, count: Tensor) -> Tensor:
    if fisher.dim() != 3 or count.shape != fisher.shape[:1]:
        shapes = f"{tuple(fisher.shape)} with tokens {tuple(count.shape)}"
        raise ValueError(f"{name!r} has shape {shapes}: must be (E, ., .) with (E,)")
    count = count.to(fisher.device, torch.float64)
    if bool((count < 0).any()) or not bool((count > 0).any()):
        raise ValueError(f"tokens of {name!r} must be at least 0, and of one expert above 0")
    seen = count > 0
    scale = torch.where(seen, count.mean() / count, torch.zeros_like(count)).float()
    normalised = fisher * scale[:, None, None]
    normalised[~seen] = normalised[seen].mean(dim=0)
    return normalised
