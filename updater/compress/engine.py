"""A checkpoint folder becomes a smaller one: pruning, recovery, and quantization of what is left.

Knows checkpoints and examples, no stores. Killed, it goes on when it is called again: what is whole
in its working folder is not made again. Called by the steps of `updater.pipeline` and by studies.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updater.compress import fits
from updater.compress.looking import Looking, Shown
from updater.compress.measured import bytes_of, measured
from updater.compress.quantize.write import write
from updater.compress.recover import recover
from updater.compress.rounds import Pruned, Rounds
from updater.nemotron import checkpoint
from updater.settings import CompressionSettings, TrainingSettings
from updater.train.lesson import Lesson
from updater.train.record import Watch


@dataclass(frozen=True)
class Learnt:
    """What is learnt again, and how."""

    lesson: Lesson
    training: TrainingSettings
    watch: Watch


@dataclass(frozen=True)
class Compressed:
    """What has become of a checkpoint. Bytes are those of the weight files; numbers are counted
    before they are quantized, which rounds some of them to zero.

    `gone`: by what they belong to, the numbers of the parts that went, as the base counts them.
    `zeros`: by its released name, the share of a matrix's weights that is zero, where single
    weights went.
    """

    num_parameters: int
    nonzero_fraction: float
    num_bytes: int
    base_bytes: int
    gone: Mapping[str, list[int]]
    zeros: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """As the command answers."""
        return {
            "num_parameters": self.num_parameters,
            "nonzero_fraction": self.nonzero_fraction,
            "bytes": self.num_bytes,
            "base_bytes": self.base_bytes,
        }


def compress(
    base: Path,
    target: Path,
    settings: CompressionSettings,
    shown: Shown,
    *,
    learnt: Learnt | None = None,
    work: Path,
) -> Compressed:
    """`target` is the checkpoint `base` with what the settings take away taken away, recovered, and
    quantized.

    Args:
        learnt: for a recovery.
        work: a folder of its own, gone afterwards.

    Raises:
        InputError: the checkpoint has not what should go, or too little would stay.
        UpdateError: the weights have no Fisher, they diverge.
    """
    contents = checkpoint.check(base)
    fits.check(contents.config, settings, where=str(base / "config.json"))
    work.mkdir(parents=True, exist_ok=True)
    made, gone = Pruned(base, {})
    if settings.method != "none":
        made, gone = Rounds(base, contents, settings, work).pruned(shown)
    if settings.recovery != "none":
        assert learnt is not None, "a recovery has something to learn"
        made = _recovered(made, base, settings, learnt, work)
    counted = measured(made)
    if settings.quantize != "none":
        made = _quantized(made, work / "quantized", settings, shown)
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    shutil.rmtree(work)
    return Compressed(
        num_parameters=counted.num_parameters,
        nonzero_fraction=counted.num_nonzero / counted.num_parameters,
        num_bytes=bytes_of(target),
        base_bytes=bytes_of(base),
        gone=gone,
        zeros=counted.zeros if settings.remove == "weights" else {},
    )


def _recovered(
    folder: Path, base: Path, settings: CompressionSettings, learnt: Learnt, work: Path
) -> Path:
    target = work / "recovered"
    if not target.exists():
        recover(
            folder,
            base,
            learnt.lesson,
            settings=settings,
            training=learnt.training,
            state=work / "recovery",
            target=target,
            watch=learnt.watch,
        )
    return target


def _quantized(folder: Path, target: Path, settings: CompressionSettings, shown: Shown) -> Path:
    inputs = None
    if settings.needs_inputs:
        inputs = Looking(folder, settings, shown).largest_inputs()
    return write(folder, target, scheme=settings.quantize, keep=settings.keep, inputs=inputs)
