"""Which examples go through a model that is asked, pass by pass, in each of many processes.

Not the batches of a training (`updater.train.schedule`). Called by `updater.evaluate` and
`updater.train.drafting`.
"""

from collections.abc import Iterator

import numpy as np

from updater.train.encode import Encoded
from updater.train.ranks import Ranks

MOST_TOKENS = 2**16
"""Of a pass, padding counted, unless one text alone has more: so that what a layer's states take
has a bound, some 4 GB of Nano in bfloat16, however long texts are. Chosen: 64 texts of 1,024."""


def portions(
    encoded: Encoded, batch_size: int, ranks: Ranks
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Examples of like length, this process's of as many as all can take at once; the completion
    tokens that one of them has at most; and how many are its own. One that has none goes along with
    another's: what is in shards, all have to ask for.

    `batch_size`: of each process; fewer where they would have more than `MOST_TOKENS`."""
    lengths, completions = encoded.lengths, encoded.completion_lengths
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = lengths[order[first : first + batch_size * ranks.world][-1]]
        each = min(batch_size, max(MOST_TOKENS // int(longest), 1))
        whole = order[first : first + each * ranks.world]
        first += len(whole)
        parts = [whole[rank :: ranks.world] for rank in range(ranks.world)]
        most_tokens = max(int(completions[part].sum()) for part in parts)
        mine = parts[ranks.rank]
        yield (mine if len(mine) else whole[:1]), most_tokens, len(mine)
