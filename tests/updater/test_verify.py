"""How many answers of an exported checkpoint may differ, in the code as in the docs."""

import re
from pathlib import Path

import pytest

from updater.errors import UpdateError
from updater.verify import TOLERATED_FRACTION, refuse_others

DOCS = (Path(__file__).parents[2] / "docs" / "gate.md").read_text("utf-8")


def said(num_differing: int, tolerated: float) -> dict[str, object]:
    differing = [{"period": "2026-01", "id": str(n)} for n in range(num_differing)]
    return {"num_checked": 1000, "differing": differing, "tolerated_fraction": tolerated}


def test_the_docs_say_how_many_may_differ() -> None:
    (number,) = re.findall(r"(\d+) of 1,000\s+may differ", DOCS)
    most = int(number)
    assert most == pytest.approx(1000 * TOLERATED_FRACTION)
    refuse_others(Path("x"), said(most, TOLERATED_FRACTION))
    with pytest.raises(UpdateError, match=f"answers {most + 1} of 1000 examples otherwise"):
        refuse_others(Path("x"), said(most + 1, TOLERATED_FRACTION))


def test_without_tolerance_one_is_too_many() -> None:
    refuse_others(Path("x"), said(0, 0.0))
    with pytest.raises(UpdateError, match="2026-01/0"):
        refuse_others(Path("x"), said(1, 0.0))
