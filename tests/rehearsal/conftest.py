"""A past on disk: periods of examples with classes, sorted by key as ingest sorts them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rehearsal.policies import Past
from rehearsal.window import SCHEMA


class OnDisk(NamedTuple):
    """`past` and where its files are."""

    past: list[Past]
    locate: Callable[[str], Path]


def key_of(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "big")


@pytest.fixture(scope="session")
def lay_past(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnDisk]:
    """A function: sizes -> a past whose example i of period p has the id "p:i" and, unless
    `classes` says otherwise, one of five completions, the commonest 16 times the rarest."""

    def lay(
        sizes: Sequence[int],
        *,
        salt: str = "",
        classes: Sequence[Sequence[str]] | None = None,
        subjects: Sequence[str | None] = (None, "ann", "bob"),
    ) -> OnDisk:
        folder = tmp_path_factory.mktemp("past")
        past = []
        for number, size in enumerate(sizes):
            ids = [f"p{number}:{i}" for i in range(size)]
            keys = np.array([key_of(f"{salt}:{one}") for one in ids], np.uint64)
            labels = [f"c{min(i % 31, 15).bit_length()}" for i in range(size)]
            table = pa.table(
                [
                    pa.array(keys, pa.uint64()),
                    ids,
                    [f"prompt {one}" for one in ids],
                    pa.array(labels if classes is None else classes[number], pa.string()),
                    pa.array([subjects[i % len(subjects)] for i in range(size)], pa.string()),
                ],
                schema=SCHEMA,
            ).take(np.argsort(keys))
            pq.write_table(table, folder / f"v{number}.parquet", row_group_size=16)
            past.append(Past(f"p{number}", f"v{number}", size, number))
        return OnDisk(past, lambda version: folder / f"{version}.parquet")

    return lay


@pytest.fixture(scope="session")
def scorer() -> Callable[[pa.Table], pa.Table]:
    """A model that is wrong about p0, sure of even ids, and can't be asked those that end in 7."""

    def score(examples: pa.Table) -> pa.Table:
        ids = examples["id"].to_pylist()
        losses = [
            None if one.endswith("7") else 0.1 + int(one.split(":")[1]) % 2 * 2 for one in ids
        ]
        return pa.table(
            {
                "id": ids,
                "correct": [not one.startswith("p0") for one in ids],
                "loss": pa.array(losses, pa.float32()),
            }
        )

    return score
