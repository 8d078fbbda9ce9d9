"""One of the processes that ask one model together.

Called by `updater.launch.worker`.
"""

from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from updater.evaluate import outcomes
from updater.launch import answer
from updater.launch.task import Asking
from updater.nemotron.dtypes import load_as_served
from updater.stopwatch import Stopwatch
from updater.train.ranks import Ranks
from updater.train.shards import arranged


def ask(folder: Path, ranks: Ranks, device: str) -> None:
    """What the checkpoint says to each table lies in the folder."""
    task = Asking.read(folder)
    cut = arranged(ranks.mesh, gather_bytes=task.gather_bytes)
    model, tokenizer = load_as_served(task.checkpoint, device=device, arranged=cut)
    model.requires_grad_(False)  # of one group of weights FSDP would have all of one dtype
    watch, done = Stopwatch(), 0
    with ExitStack() as told:
        metrics = told.enter_context(answer.metrics(folder)) if ranks.first else None

        def tell(num_examples: int) -> None:
            nonlocal done
            done += num_examples * ranks.world
            if metrics is not None:
                metrics(done, {})

        for number in range(len(task.names)):
            with watch:
                found = outcomes(
                    model,
                    tokenizer,
                    pq.read_table(Asking.examples(folder, number)),
                    batch_size=task.batch_size,
                    max_length_tokens=task.max_length_tokens,
                    on_progress=tell,
                    ranks=ranks,
                )
            if ranks.first:
                pq.write_table(found, answer.outcomes(folder, number))
    if ranks.first:
        answer.finish(folder, {"seconds": watch.seconds})
