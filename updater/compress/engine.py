"""A checkpoint folder becomes a smaller one: looking, choosing and taking away, recovery, and
quantization of what is left.

Knows checkpoints and examples, no stores. Killed, it goes on when it is called again: what is whole
in its working folder is not made again. Called by the steps of `updater.pipeline` and by studies.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updater.compress import merged, parts, weights
from updater.compress.looking import Looking, Shown
from updater.compress.measured import bytes_of, measured
from updater.compress.quantize.write import write
from updater.compress.recover import recover
from updater.errors import InputError
from updater.nemotron import smaller
from updater.nemotron.sparsity import staying
from updater.settings import NEED_INPUTS, CompressionSettings, TrainingSettings
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
    before they are quantized, which rounds some of them to zero."""

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
    work.mkdir(parents=True, exist_ok=True)
    made = base
    if settings.method != "none":
        made = _pruned(base, settings, shown, work)
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
    )


def _pruned(base: Path, settings: CompressionSettings, shown: Shown, work: Path) -> Path:
    """In each round the same share of what is left goes, and evidence is looked for anew at what is
    left: one look at the weights of before tells little of what many removals together cost
    (Kurtic et al. 2022, arXiv 2203.07259, whose README has 14.6 to 47.7 F1 at 90 % for 1 to 32
    looks)."""
    targets = [work / f"round-{number}" for number in range(1, settings.rounds + 1)]
    done = max((n for n, target in enumerate(targets, start=1) if target.exists()), default=0)
    folder = targets[done - 1] if done else base
    for number, target in enumerate(targets[done:], start=done + 1):
        share = 1 - (1 - settings.sparsity) ** (number / settings.rounds)
        now = shown if folder == base else dataclasses.replace(shown, fisher=None)
        is_last = target == targets[-1]
        if not _taken_away(folder, target, settings, now, share, base, is_last=is_last):
            continue
        if folder != base:
            shutil.rmtree(folder)
        folder = target
    return folder


def _taken_away(
    folder: Path,
    target: Path,
    settings: CompressionSettings,
    shown: Shown,
    share: float,
    base: Path,
    *,
    is_last: bool,
) -> bool:
    """`target` is `base` without that share of it, made of `folder`, which has less than that taken
    away. False, and no target, where an early round is too small for a whole part to go."""
    looking = Looking(folder, settings, shown)
    if settings.remove == "weights":
        smaller.zero(folder, weights.masks(looking, share), target)
        return True
    first = Looking(base, settings, shown)
    try:
        wanted = staying(
            first.contents.config,
            settings.remove,
            share,
            multiple_of=settings.multiple_of,
            attention=settings.attention,
            where=first.where,
        )
    except InputError:
        if is_last:
            raise
        return False
    kept = parts.choose(looking, wanted)
    smaller.shrink(folder, kept, target, replaced=merged.taken_over(looking, kept))
    return True


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
    if settings.quantize in NEED_INPUTS:
        inputs = Looking(folder, settings, shown).largest_inputs()
    return write(folder, target, scheme=settings.quantize, keep=settings.keep, inputs=inputs)
