"""What is chosen of one period: a window of its rows, or rows picked one by one.

Names rows of a dataset version, holds none. `manifest` puts them together, `window` reads them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rehearsal.policies import Past


@dataclass(frozen=True)
class Choice:
    """Rows `start`, `start + 1`, ... (`count` of them, wrapping at `num_train`) of one period's
    `train.parquet` in the version `dataset_version`, which has `num_train` rows."""

    period: str
    dataset_version: str
    num_train: int
    start: int
    count: int

    def __post_init__(self) -> None:
        if not (0 < self.count <= self.num_train and 0 <= self.start < self.num_train):
            raise ValueError(
                f"choice of period {self.period!r}: count {self.count} and start {self.start} "
                f"must lie within its {self.num_train} examples"
            )

    @property
    def rows(self) -> np.ndarray:
        """The row numbers, int64 [count], in the order in which they are read."""
        return (self.start + np.arange(self.count)) % self.num_train

    def first(self, count: int) -> "Choice":
        """The first `count` rows of the window, 1 .. its own."""
        return replace(self, count=count)


@dataclass(frozen=True)
class Picked:
    """Rows of one period's `train.parquet`, chosen one by one, as `runs` of (first row, number of
    rows): rising, and with a gap between any two, so that equal choices are equal texts.

    About 12 bytes of JSON a row where no two are neighbours: a budget of 10^4 is 120 kB.
    """

    period: str
    dataset_version: str
    num_train: int
    runs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        end = -1
        for first, count in self.runs:
            if not (type(first) is type(count) is int and first > end and count > 0):
                raise ValueError(
                    f"choice of period {self.period!r}: the run of {count} at row {first} must be"
                    f" whole numbers above row {end} and not next to it"
                )
            end = first + count
        if not 0 < end <= self.num_train:
            raise ValueError(
                f"choice of period {self.period!r}: rows up to {end} must lie within its "
                f"{self.num_train} examples, and be some"
            )

    @classmethod
    def of(cls, one: Past, rows: Iterable[int]) -> "Picked":
        """These rows of the period, in whatever order they are given.

        Raises:
            ValueError: none, a row twice, or one that the period hasn't.
        """
        ordered = np.sort(np.fromiter(rows, np.int64))
        breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
        pieces = np.split(ordered, breaks) if len(ordered) else []
        runs = tuple((int(piece[0]), len(piece)) for piece in pieces)
        return cls(one.period, one.dataset_version, one.num_train, runs)

    @property
    def count(self) -> int:
        """How many rows."""
        return sum(count for _, count in self.runs)

    @property
    def rows(self) -> np.ndarray:
        """The row numbers, int64 [count], rising: the order in which they are read."""
        return np.concatenate([np.arange(first, first + count) for first, count in self.runs])

    def first(self, count: int) -> "Picked":
        """The first `count` rows, 1 .. its own."""
        before = 0
        runs = []
        for start, length in self.runs:
            if before < count:
                runs.append((start, min(length, count - before)))
            before += length
        return replace(self, runs=tuple(runs))


def choice_of(plain: Mapping[str, Any]) -> Choice | Picked:
    """The choice whose fields these are, read from JSON.

    Raises:
        TypeError, ValueError: it is none.
    """
    if "runs" not in plain:
        return Choice(**typed(Choice, plain))
    runs = tuple((first, count) for first, count in plain["runs"])
    return Picked(**(typed(Picked, plain) | {"runs": runs}))


def typed(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """`plain`, which has exactly the fields of the dataclass `kind`, whole numbers and texts where
    it says so.

    Raises:
        TypeError: it has not.
    """
    names = [one.name for one in fields(kind)]
    if set(plain) != set(names):
        raise TypeError(f"{kind.__name__} has fields {names}, found {sorted(plain)}")
    for one in fields(kind):
        if one.type in (int, str) and type(plain[one.name]) is not one.type:
            raise TypeError(f"{kind.__name__}.{one.name} is {plain[one.name]!r}")
    return dict(plain)
