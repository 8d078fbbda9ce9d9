"""Batches of new and rehearsed examples in one fixed ratio, from any place of an epoch on.

Does not know what an example is; it deals in indices of [new..., rehearsed...]. One process:
nothing is sharded here. Called by `updater.train.schedule`.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

BUCKET_BATCHES = 32
"""Examples are sorted by length within runs of so many batches. Chosen by measurement on 10,000
lognormal lengths (sigma 0.5, batch 32, a fifth rehearsed): of all tokens 60 % were padding without
sorting, 15 % with runs of 16, 8 % with 32, 4 % with 64, which mixes less."""


class MixedBatches:
    """Every epoch passes once over all new and all rehearsed examples, mixed alike in each batch.

    Batch b of size `batch_size` (the last may be shorter) holds
    floor(end * num_rehearsed / total) - floor(begin * num_rehearsed / total) rehearsed examples,
    where begin and end are its first and last + 1 place in the epoch: within one of the exact
    ratio, and so are any consecutive batches together. Indices below `num_new` are new, the others
    rehearsed; a batch lists new ones first.

    The order depends on `seed` and the epoch alone.

    Args:
        num_new: at least 0.
        num_rehearsed: at least 0; at 0 every batch is new.
        batch_size: at least 1.
        seed: at least 0.
        lengths: tokens of each example, new ones first. Given, batches are of like length: the
            shuffled epoch is sorted within runs of BUCKET_BATCHES batches, whose order is then
            shuffled. Ratio and single use hold as without.

    Raises:
        ValueError: a number out of range, or `lengths` for another number of examples.
    """

    def __init__(
        self,
        num_new: int,
        num_rehearsed: int,
        *,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        least = {"num_new": 0, "num_rehearsed": 0, "batch_size": 1, "seed": 0}
        for name, minimum in least.items():
            if locals()[name] < minimum:
                raise ValueError(f"{name} is {locals()[name]}: must be at least {minimum}")
        total = num_new + num_rehearsed
        if lengths is not None and len(lengths) != total:
            raise ValueError(f"lengths has {len(lengths)} entries for {total} examples")
        self.num_new, self.num_rehearsed, self.batch_size = num_new, num_rehearsed, batch_size
        self.seed = seed
        self._lengths = None if lengths is None else torch.as_tensor(lengths)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-(self.num_new + self.num_rehearsed) // self.batch_size)

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[list[int]]:
        """The batches of that epoch (0-based) from `first_batch` on, the same whenever asked for.

        Raises:
            ValueError: an epoch or batch that there is not.
        """
        if number < 0 or not 0 <= first_batch <= len(self):
            place = f"batch {first_batch} of epoch {number}"
            raise ValueError(f"{place} is no place among {len(self)} batches an epoch")
        return islice(self._batches(number), first_batch, None)

    def _batches(self, number: int) -> Iterator[list[int]]:
        # Odd multiplier (2^64 / golden ratio): distinct (seed, epoch) pairs give distinct streams.
        mixed = (self.seed * 0x9E3779B97F4A7C15 + number) % 2**63
        generator = torch.Generator().manual_seed(mixed)
        new = torch.randperm(self.num_new, generator=generator)
        old = torch.randperm(self.num_rehearsed, generator=generator) + self.num_new
        run = 1 if self._lengths is None else BUCKET_BATCHES
        for first in range(0, len(self), run):
            last = min(first + run, len(self))
            edges = [self._before(batch) for batch in range(first, last + 1)]
            order = torch.randperm(last - first, generator=generator).tolist()
            ours = self._dealt(new, [edge[0] for edge in edges], order)
            theirs = self._dealt(old, [edge[1] for edge in edges], order)
            yield from (a + b for a, b in zip(ours, theirs, strict=True))

    def _before(self, batch: int) -> tuple[int, int]:
        """How many new and how many rehearsed examples come before the batch."""
        total = self.num_new + self.num_rehearsed
        place = min(batch * self.batch_size, total)
        old = place * self.num_rehearsed // max(total, 1)
        return place - old, old

    def _dealt(self, stream: torch.Tensor, edges: list[int], order: list[int]) -> list[list[int]]:
        """stream[edges[0]:edges[-1]] as batches: batch i of edges[i + 1] - edges[i] examples.

        With lengths, batch order[0] gets the shortest, order[1] the next, and so on.
        """
        part = stream[edges[0] : edges[-1]]
        if self._lengths is not None:
            part = part[torch.argsort(self._lengths[part], stable=True)]
        counts = [edges[batch + 1] - edges[batch] for batch in order]
        dealt = dict(zip(order, part.split(counts), strict=True))
        return [dealt[batch].tolist() for batch in range(len(order))]
