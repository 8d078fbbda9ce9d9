"""Which examples go through a model that is asked, pass by pass, in each of many processes.

Not the batches of a training (`updater.train.schedule`). Called by `updater.evaluate` and
`updater.train.drafting`.
"""

from collections.abc import Iterator

import numpy as np

from updater.train.encode import Encoded
from updater.train.ranks import Ranks


def portions(
    encoded: Encoded, batch_size: int, ranks: Ranks
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Examples of like length, this process's of as many as all can take at once; the completion
    tokens that one of them has at most; and how many are its own. One that has none goes along with
    another's: what is in shards, all have to ask for."""
    order = np.argsort(encoded.lengths, kind="stable")
    at_once = batch_size * ranks.world
    for first in range(0, len(order), at_once):
        whole = order[first : first + at_once]
        parts = [whole[rank :: ranks.world] for rank in range(ranks.world)]
        most_tokens = max(int(encoded.completion_lengths[part].sum()) for part in parts)
        mine = parts[ranks.rank]
        yield (mine if len(mine) else whole[:1]), most_tokens, len(mine)
