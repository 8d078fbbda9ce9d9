"""Which of a checkpoint's single weights go: scores and masks, one tensor in memory at a time.

Matrices of the layers alone: embedding, output head, routers, norms, convolutions and the state's
own parameters stay, as in the published recipes for single weights (Frantar & Alistarh 2023, arXiv
2301.00774, prune the layers' linear maps), and so does attention unless asked. Not the criteria
(`compression.saliency`), not the cut (`compression.masks`), not the writing
(`updater.nemotron.smaller`).
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from compression.masks import lowest, n_of_m
from compression.saliency import CRITERIA, Evidence, score
from updater.errors import InputError
from updater.nemotron.validate import Contents
from updater.settings import CompressionSettings

_MATRICES = tuple(
    f"{name}_proj.weight" for name in ("in", "out", "up", "down", "fc1_latent", "fc2_latent")
)
_ATTENTION = tuple(f".mixer.{name}_proj.weight" for name in "qkvo")

_LEAST = torch.finfo(torch.float32).tiny
"""The lowest score of a weight that is there: below it are those that are gone."""

Known = Callable[[str], Evidence]
"""What is known of a weight, by its released name."""


def is_prunable(name: str, *, attention: bool = True) -> bool:
    """Whether the tensor of that released name is a matrix that may lose weights."""
    endings = _MATRICES + (_ATTENTION if attention else ())
    return name.startswith("backbone.layers.") and name.endswith(endings)


def masks(
    folder: Path, contents: Contents, settings: CompressionSettings, known: Known, *, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """(released name, mask) of each matrix that may lose weights; true where a weight stays.

    A weight that is zero already goes first, whatever the criterion says of it, so that what one
    round has taken away no later one gives back.

    Raises:
        InputError: a pattern does not fit a matrix.
        ValueError: as `compression.saliency.score`.
    """
    names = [n for n in contents.entries if is_prunable(n, attention=settings.attention)]

    def scores() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            weight = read(folder, contents, name)
            evidence = known(name)._replace(generator=_generator(seed, name))
            found = score(settings.method, name, weight, evidence).clamp_(min=_LEAST)
            yield name, found.where(weight != 0, 0)

    if settings.pattern:
        return _patterned(scores())
    return lowest(scores, settings.sparsity, settings.scope or CRITERIA[settings.method].scope)


def _patterned(scores: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for name, one in scores:
        try:
            yield name, n_of_m(one)
        except ValueError as error:
            raise InputError(
                f'compression.pattern = "2:4": {name} has {error}',
                "of each four weights in a row two stay",
                "leave the pattern out, and give a sparsity",
            ) from error


def read(folder: Path, contents: Contents, name: str) -> Tensor:
    """The tensor of that released name, as it lies in the folder, on the CPU."""
    with safe_open(folder / contents.entries[name].file, framework="pt") as stream:
        tensor: Tensor = stream.get_tensor(name)
    return tensor


def _generator(seed: int, name: str) -> torch.Generator:
    """Of numbers that are the same at each look at a weight, and others for each."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number >> 1)
