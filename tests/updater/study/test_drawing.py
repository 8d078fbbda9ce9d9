"""What plots rest on: looks that differ, names that don't collide, the Pareto front, ratios."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Annotation

from updater.report import style
from updater.study.ratios import ratios
from updater.study.report import heat
from updater.study.report.drawing import (
    MOST_ARMS,
    left_out,
    marks,
    name_points,
    new_figure,
    spread,
)
from updater.study.report.plots import front
from updater.study.results import Run, Stage
from updater.study.tabulated import tabulate

Make = Callable[..., list[Run]]
POSITIONS = st.lists(st.integers(0, 100).map(float), min_size=1, max_size=8)


@given(POSITIONS)
def test_spread_names_keep_their_order_and_their_distance(wanted: list[float]) -> None:
    placed = spread(wanted, 5.0)
    pairs = sorted(zip(wanted, placed, strict=True))
    for (_, one), (_, other) in itertools.pairwise(pairs):
        assert other - one >= 5.0 - 1e-9
    if all(b - a >= 5 for a, b in itertools.pairwise(sorted(wanted))):
        assert placed == pytest.approx(wanted)


@given(POSITIONS)
@settings(max_examples=25)
def test_no_other_places_are_nearer(wanted: list[float]) -> None:
    """Against a general optimizer on the same least-squares problem."""
    target = np.sort(wanted)
    limits = [
        {"type": "ineq", "fun": lambda x, i=i: x[i + 1] - x[i] - 5.0}
        for i in range(len(target) - 1)
    ]
    start = target + 5.0 * np.arange(len(target))
    found = scipy.optimize.minimize(lambda x: ((x - target) ** 2).sum(), start, constraints=limits)
    assert sorted(spread(wanted, 5.0)) == pytest.approx(list(found.x), abs=1e-3)


def test_twelve_arms_have_twelve_looks(make_arm: Make) -> None:
    table = tabulate([r for n in range(12) for r in make_arm(f"a{n}", 0.5, seeds=1)])
    looks = marks(table)
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == MOST_ARMS
    assert len({look.marker for look in looks.values()}) == MOST_ARMS


def test_of_too_many_arms_the_first_and_the_reference_are_drawn(make_arm: Make) -> None:
    """A study's file begins with what it asks; the best alone would hide what they are better
    than."""
    runs = [r for n in range(20) for r in make_arm(f"a{n:02d}", 0.5 + n / 50, seeds=1)]
    table = tabulate(runs, "a15")
    assert list(marks(table)) == [*(f"a{n:02d}" for n in range(11)), "a15"]
    missing = ", ".join(f"a{n}" for n in range(11, 20) if n != 15)
    assert left_out(table).endswith(f"which show at most 12 arms: {missing}.")
    assert left_out(tabulate(runs[:12], "a00")) == ""


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=MOST_ARMS, unique=True
    )
)
@settings(max_examples=20, deadline=None)
def test_names_of_points_far_enough_apart_never_touch(points: list[tuple[float, float]]) -> None:
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if all(abs(x - a) + abs(y - b) > 0.25 for a, b in kept):
            kept.append((x, y))
    named = {f"arm {i}": point for i, point in enumerate(kept)}
    table = tabulate(
        [Run(name, 0, ("p",), (Stage("p", {"p": (1, 2)}),)) for name in named], "arm 0"
    )
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
        name_points(axes, named, marks(table), [])
        figure.draw_without_rendering()
        boxes = [t.get_window_extent() for t in axes.texts if isinstance(t, Annotation)]
    assert len(boxes) == len(kept)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_the_front_is_as_worked_by_hand() -> None:
    points = {"dear": (9.0, 0.9), "bad": (5.0, 0.2), "cheap": (1.0, 0.3), "same": (9.0, 0.8)}
    assert front(points) == ["cheap", "dear"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_the_front_is_what_nothing_dominates(values: list[tuple[int, int]]) -> None:
    points = {str(i): (float(c), float(v)) for i, (c, v) in enumerate(values)}
    kept = {points[name] for name in front(points)}
    best = {
        (c, v)
        for c, v in points.values()
        if not any(a <= c and b >= v and (a, b) != (c, v) for a, b in points.values())
    }
    assert kept == best


def test_ratios_are_paired_by_seed_and_keyed_by_past_periods() -> None:
    def run(arm: str, seed: int, right: int, steps: int) -> Run:
        first = Stage("a", {"a": (9, 10), "b": (0, 10)})
        return Run(arm, seed, ("a",), (first, Stage("b", {"a": (right, 10), "b": (8, 10)}, steps)))

    runs = [run("up", 0, 4, 10), run("up", 1, 0, 20), run("up", 7, 9, 99)]
    runs += [run("scratch", 0, 8, 100), run("scratch", 1, 8, 100), run("still", 0, 4, 0)]
    found = ratios(tabulate(runs, "up"), "scratch")
    assert found["accuracy"]["up"][1].mean == pytest.approx((12 / 16 + 8 / 16) / 2)
    assert found["steps"]["up"][1].mean == pytest.approx(0.15)
    assert "still" not in found["steps"]
    assert found["seconds"] == {}  # none were measured
    assert "scratch" not in found["accuracy"]


def test_without_a_scratch_arm_there_are_no_ratios(make_arm: Make) -> None:
    assert ratios(tabulate(make_arm("one", 0.9)), "scratch") == {}


def test_the_heatmap_tells_forgetting_in_points(make_arm: Make) -> None:
    figure = heat.forgetting(tabulate(make_arm("one", 0.5, seeds=1)))
    assert figure is not None
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(shown) == 5  # the last period can't be forgotten
    assert float(shown[0]) > float(shown[-1]) > 0
