"""A checkpoint folder becomes a smaller one: rounds of looking, choosing and taking away.

Knows checkpoints and examples, no stores. Called by the steps of `updater.pipeline` and by studies.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.saliency import Evidence
from regularizers import importance
from regularizers.formats import Weight
from updater.compress import weights
from updater.compress.curvature import Curvature
from updater.compress.measured import measured
from updater.nemotron import checkpoint, smaller
from updater.settings import CompressionSettings
from updater.train.encode import Encoded
from updater.train.importance import estimate


@dataclass(frozen=True)
class Shown:
    """What a method may look at.

    `estimator`: of the Fisher, where it has to be estimated anew. `fisher`: a file of the Fisher of
    the weights before anything is taken away. `examples`: of what was learnt.
    """

    estimator: str
    seed: int
    progress: bool = False
    fisher: Path | None = None
    examples: Encoded | None = None


@dataclass(frozen=True)
class Compressed:
    """What has become of a checkpoint. Bytes are those of the weight files."""

    num_parameters: int
    nonzero_fraction: float
    num_bytes: int
    base_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """As the command answers."""
        return {
            "num_parameters": self.num_parameters,
            "nonzero_fraction": self.nonzero_fraction,
            "bytes": self.num_bytes,
            "base_bytes": self.base_bytes,
        }


def compress(base: Path, target: Path, settings: CompressionSettings, shown: Shown) -> Compressed:
    """`target` is the checkpoint `base` with what the settings take away taken away.

    In each round the same share of what is left goes, and evidence is looked for anew at what is
    left: one look at the weights of before tells little of what many removals together cost
    (Kurtic et al. 2022, arXiv 2203.07259, section 3).

    Raises:
        InputError: the checkpoint has not what should go, or too little would stay.
        UpdateError: the weights have no Fisher, they diverge.
    """
    left, folder = 1 - settings.sparsity, base
    for number in range(1, settings.rounds + 1):
        share = 1 - left ** (number / settings.rounds)
        now = dataclasses.replace(settings, sparsity=share)
        made = target if number == settings.rounds else target.with_name(f".round-{number}")
        _round(folder, made, now, shown if number == 1 else dataclasses.replace(shown, fisher=None))
        if folder != base:
            shutil.rmtree(folder)
        folder = made
    after, before = measured(target), measured(base)
    return Compressed(
        num_parameters=after.num_parameters,
        nonzero_fraction=after.num_nonzero / after.num_parameters,
        num_bytes=after.num_bytes,
        base_bytes=before.num_bytes,
    )


def _round(folder: Path, target: Path, settings: CompressionSettings, shown: Shown) -> None:
    contents = checkpoint.check(folder)
    curvature = Curvature(_fisher(folder, shown)) if settings.looks == "fisher" else None

    def known(name: str) -> Evidence:
        return Evidence(fisher=curvature[name] if curvature is not None else None)

    chosen = weights.masks(folder, contents, settings, known, seed=shown.seed)
    smaller.zero(folder, chosen, target)


def _fisher(folder: Path, shown: Shown) -> Mapping[str, Weight]:
    if shown.fisher is not None:
        return importance.load(shown.fisher).tensors
    assert shown.examples is not None, "a Fisher is estimated on examples"
    model, _ = checkpoint.load(folder)
    found = estimate(
        model,
        shown.examples,
        estimator=shown.estimator,
        checkpoint_digest="",
        data_digest="",
        progress=shown.progress,
    )
    return found.tensors
