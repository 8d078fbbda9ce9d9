"""Taking away in rounds, each of which looks anew at what is left.

One look at the weights of before tells little of what many removals together cost (Kurtic et al.
2022, arXiv 2203.07259, whose README has 14.6 to 47.7 F1 at 90 % for 1 to 32 looks). Called by
`updater.compress.engine`.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from updater.compress import merged, parts, weights
from updater.compress.looking import Looking, Shown
from updater.errors import InputError
from updater.nemotron import smaller
from updater.nemotron.sparsity import staying
from updater.nemotron.validate import Contents
from updater.settings import CompressionSettings

Gone = dict[str, list[int]]
"""By `Parts.key`, the numbers of the parts that went, as the base counts them."""


class Pruned(NamedTuple):
    """The checkpoint folder that is left; of single weights `gone` says nothing."""

    folder: Path
    gone: Gone


class Rounds:
    """Of one checkpoint. What is whole in `work` is not made again.

    Args:
        base: the checkpoint folder, which stays as it is.
        contents: what it has.
        work: where each round's checkpoint lies until the next one is whole.
    """

    def __init__(
        self, base: Path, contents: Contents, settings: CompressionSettings, work: Path
    ) -> None:
        self._base, self._contents = base, contents
        self._settings, self._work = settings, work

    def pruned(self, shown: Shown) -> Pruned:
        """In each round the same share of what is left goes.

        Raises:
            InputError: the checkpoint has not what should go, or too little would stay.
            UpdateError: the weights have no Fisher, they diverge.
        """
        total = self._settings.rounds
        done = max((n for n in range(1, total + 1) if self._folder(n).exists()), default=0)
        folder = self._folder(done) if done else self._base
        for number in range(done + 1, total + 1):
            now = shown if folder == self._base else dataclasses.replace(shown, fisher=None)
            if not self._round(number, Looking(folder, self._settings, now)):
                continue
            if folder != self._base:
                shutil.rmtree(folder)
            folder = self._folder(number)
        return Pruned(folder, self._gone(folder))

    def _round(self, number: int, looking: Looking) -> bool:
        """False: it is too small for a whole part to go, and not the last."""
        share = self._settings.sparsity
        if number < self._settings.rounds:  # else the rounding of a power would be in messages
            share = 1 - (1 - share) ** (number / self._settings.rounds)
        target = self._folder(number)
        if self._settings.remove == "weights":
            smaller.zero(looking.folder, weights.masks(looking, share), target)
            return True
        try:
            wanted = self._staying(share)
        except InputError:
            if number == self._settings.rounds:
                raise
            return False
        kept = parts.choose(looking, wanted)
        gone = self._added(self._gone(looking.folder), kept)
        # Before the folder is there, for where the folder is the round is done.
        self._file(target).write_text(json.dumps(gone), encoding="utf-8")
        smaller.shrink(looking.folder, kept, target, replaced=merged.taken_over(looking, kept))
        return True

    def _staying(self, share: float) -> dict[str, int]:
        """How many of the base's parts stay, of each sort."""
        return staying(
            self._contents.config,
            self._settings.remove,
            share,
            multiple_of=self._settings.multiple_of,
            attention=self._settings.attention,
            where=str(self._base / "config.json"),
        )

    def _added(self, gone: Gone, kept: dict[str, Tensor]) -> Gone:
        """What is gone after a round: the parts that a mask is over are those that were left."""
        found: Gone = {}
        for key, mask in kept.items():
            before = gone.get(key, [])
            left = [n for n in range(len(mask) + len(before)) if n not in set(before)]
            went = [n for n, stays in zip(left, mask.tolist(), strict=True) if not stays]
            found[key] = sorted([*before, *went])
        return found

    def _gone(self, folder: Path) -> Gone:
        file = self._file(folder)
        found: Gone = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return found

    def _folder(self, number: int) -> Path:
        return self._work / f"round-{number}"

    def _file(self, folder: Path) -> Path:
        return self._work / f"{folder.name}.json"
