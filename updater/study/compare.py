"""The `[[compare]]` of a study file: which pairs of arms are compared, beside all with one.

Called by `updater.study.file`.
"""

from collections.abc import Sequence

from updater.errors import did_you_mean
from updater.study.plan import Pair
from updater.study.tables import Table


def read(top: Table, arms: Sequence[str], chosen: Sequence[str]) -> tuple[Pair, ...]:
    """The declared pairs of the arms `chosen`, in their order.

    Args:
        arms: the names of all arms of the file: every pair is checked.

    Raises:
        InputError: a pair names no arm, an arm with itself, or what another pair has.
    """
    found: list[Pair] = []
    for table in top.tables("compare"):
        table.check(("arm", "reference"))
        pair = Pair(_arm(table, "arm", arms), _arm(table, "reference", arms))
        _check(table, pair, found)
        found.append(pair)
    return tuple(pair for pair in found if {pair.arm, pair.reference} <= set(chosen))


def _arm(table: Table, key: str, arms: Sequence[str]) -> str:
    name = table.value(key, "")
    if not name:
        raise table.wrong(
            f"{key} is missing or empty", "a pair is of two arms", f'write {key} = "{arms[0]}"'
        )
    if name not in arms:
        raise table.wrong(
            f'{key} = "{name}"',
            f"the arms are {', '.join(arms)}",
            did_you_mean(name, arms) or "name one of them",
        )
    return str(name)


def _check(table: Table, pair: Pair, before: Sequence[Pair]) -> None:
    if pair.arm == pair.reference:
        raise table.wrong(
            f"the arm {pair.arm} is compared with itself",
            "a pair is of two arms",
            "name another reference",
        )
    if pair in before or Pair(pair.reference, pair.arm) in before:
        raise table.wrong(
            f"{pair.arm} and {pair.reference} are a pair already",
            "each pair is compared once, in one direction",
            "take one out",
        )
