"""What plots rest on: looks that differ, names that don't collide, the Pareto front, ratios."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from updater.report import style
from updater.study.ratios import ratios
from updater.study.report import heat
from updater.study.report.drawing import new_figure, spread
from updater.study.report.looks import MOST_ARMS, costs, front, marks, not_drawn
from updater.study.report.pictures import PICTURES
from updater.study.report.point_names import name_points
from updater.study.report.sheets import against_scratch
from updater.study.results import Run, Stage
from updater.study.tabulated import tabulate

Make = Callable[..., list[Run]]


def a_run(arm: str, *, right: int, steps: int, updates: int = 1) -> Run:
    """Of one seed: so many of a hundred right on each period, at so many steps and seconds."""
    periods = [f"p{i}" for i in range(updates + 1)]
    scores = dict.fromkeys(periods, (right, 100))
    first = Stage(periods[0], scores)
    then = (Stage(period, scores, steps, seconds=float(steps)) for period in periods[1:])
    return Run(arm, 0, (periods[0],), (first, *then))


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


def test_of_too_many_arms_the_fronts_the_reference_and_scratch_are_drawn_then_the_first() -> None:
    """A study's file begins with what it asks; the best alone would hide what they are better
    than. Worked by hand: the dearer the worse, but for the last."""
    runs = [a_run(f"a{n:02d}", right=50 - n, steps=100 + n) for n in range(19)]
    runs.append(a_run("a19", right=90, steps=500))
    table = tabulate(runs, "a15", scratch="a17")
    drawn = [*(f"a{n:02d}" for n in range(9)), "a15", "a17", "a19"]
    assert list(marks(table)) == drawn
    missing = ", ".join(f"a{n:02d}" for n in range(19) if f"a{n:02d}" not in drawn)
    assert not_drawn(table) == f"Not drawn, of 20 arms, but in the tables: {missing}."
    assert not_drawn(tabulate(runs[:12], "a00")) == ""


def test_a_front_of_more_arms_than_are_drawn_is_drawn_whole() -> None:
    runs = [a_run(f"a{n:02d}", right=50 + n, steps=100 + n) for n in range(15)]
    looks = marks(tabulate(runs, "a00"))
    assert len(looks) == 15
    assert len({(look.colour, str(look.dash), look.marker) for look in looks.values()}) == 15


def test_the_front_that_is_drawn_is_of_all_arms_and_the_caption_names_those_missing() -> None:
    """Arms of a file that come after the first twelve beat those."""
    runs = [a_run(f"a{n:02d}", right=40, steps=100 + n) for n in range(14)]
    runs += [a_run("cheap", right=60, steps=50), a_run("good", right=80, steps=200)]
    picture = PICTURES["cost"]
    table = tabulate(runs, "a00")
    figure = picture.draw(table)
    assert figure is not None
    for axes in figure.axes:
        assert {"cheap", "good"} <= {text.get_text() for text in axes.texts}
        (step,) = [line for line in axes.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
        assert list(step.get_ydata()) == pytest.approx([60, 80])  # type: ignore[arg-type]
    missing = "a10, a11, a12, a13"
    assert picture.explained(table).endswith(f"of 16 arms, but in the tables: {missing}.")


def test_an_arm_that_trained_at_the_last_update_alone_beats_none_in_cost() -> None:
    """What it cost is of one update, while the others paid for each."""
    early = a_run("each", right=70, steps=100, updates=3)
    late = a_run("late", right=90, steps=100, updates=3)
    stages = (*(dataclasses.replace(one, steps=0, seconds=0.0) for one in late.stages[:-1]),)
    runs = [early, dataclasses.replace(late, stages=(*stages, late.stages[-1]))]
    table = tabulate(runs, "each")
    assert front(costs(table, "steps")) == ["each"]
    figure = PICTURES["cost"].draw(table)
    assert figure is not None
    (hollow,) = [
        line for line in figure.axes[0].lines if line.get_markerfacecolor() == style.SURFACE
    ]
    assert list(hollow.get_ydata()) == [90]  # type: ignore[arg-type]
    assert "at the last update alone, at the cost of one: late." in PICTURES["cost"].explained(
        table
    )
    assert "at the last update" not in PICTURES["cost"].explained(tabulate([early], "each"))


def named(points: dict[str, tuple[float, float]]) -> Axes:
    """Axes with a name at each of the points."""
    table = tabulate([a_run(name, right=50, steps=1) for name in points], next(iter(points)))
    with style.styled():
        axes = new_figure(300).add_subplot()
        axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
        name_points(axes, points, marks(table), [])
        axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    return axes


def boxes(axes: Axes) -> dict[str, Bbox]:
    return {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_text()}


UNIT = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(st.lists(UNIT, min_size=1, max_size=MOST_ARMS), UNIT, st.sampled_from([0.0, 0.03, 0.2, 1.0]))
@settings(max_examples=20, deadline=None)
def test_names_of_points_never_touch_however_near_those_are(
    points: list[tuple[float, float]], centre: tuple[float, float], scale: float
) -> None:
    near = [tuple(c + scale * (x - c) for x, c in zip(p, centre, strict=True)) for p in points]
    found = boxes(named({f"rehearsal-arm-{i}": (x, y) for i, (x, y) in enumerate(near)}))
    assert len(found) == len(points)
    for one, other in itertools.combinations(found.values(), 2):
        assert not one.overlaps(other)


def test_a_name_that_is_not_beside_its_point_alone_has_a_leader_to_it() -> None:
    points = {f"arm-{i}": (0.5 + 0.004 * i, 0.5) for i in range(9)} | {"alone": (0.1, 0.1)}
    axes = named(points)
    scale = axes.figure.dpi / 72
    led = {t.xy: t for t in axes.texts if isinstance(t, Annotation) and t.arrow_patch is not None}
    for name, box in boxes(axes).items():
        x, y = axes.transData.transform(points[name])
        away = np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1)) / scale
        if name == "alone":
            assert away < 11
            assert points[name] not in led
        elif away > 11:
            end = np.array([x, y]) + scale * np.array(led[points[name]].get_position())
            assert box.padded(1).contains(*end), name
    assert len(led) >= 7


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
    found = ratios(tabulate(runs, "up", scratch="scratch"))
    assert found["accuracy"]["up"][1].mean == pytest.approx((12 / 16 + 8 / 16) / 2)
    assert found["steps"]["up"][1].mean == pytest.approx(0.15)
    assert "still" not in found["steps"]
    assert found["seconds"] == {}  # none were measured
    assert "scratch" not in found["accuracy"]


def test_an_arm_of_any_name_is_what_updates_are_drawn_against(make_arm: Make) -> None:
    runs = [*make_arm("up", 0.9, seeds=1), *make_arm("anew", 1.0, seeds=1, grows=True)]
    table = tabulate(runs, scratch="anew")
    assert PICTURES["ratio"].draw(table) is not None
    assert "in percent of the arm anew with" in PICTURES["ratio"].explained(table)
    sheet = against_scratch(table)
    assert sheet is not None
    assert (sheet.title, [row[0] for row in sheet.rows]) == ("The last update against anew", ["up"])


def test_without_a_scratch_arm_there_are_no_ratios(make_arm: Make) -> None:
    assert ratios(tabulate(make_arm("scratch", 0.9))) == {}


def test_the_heatmap_tells_forgetting_in_points(make_arm: Make) -> None:
    figure = heat.forgetting(tabulate(make_arm("one", 0.5, seeds=1)))
    assert figure is not None
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(shown) == 5  # the last period can't be forgotten
    assert float(shown[0]) > float(shown[-1]) > 0


def luminance(colour: Sequence[float]) -> float:
    """Relative, WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_each_number_of_the_heatmap_is_black_or_white_whichever_contrasts_more(
    make_study: Make,
) -> None:
    figure = heat.forgetting(tabulate(make_study(1)))
    assert figure is not None
    axes = figure.axes[0]
    for patch, text in zip(axes.patches, axes.texts, strict=True):
        ground = luminance(to_rgb(patch.get_facecolor())) + 0.05
        darkens, lightens = ground / 0.05, 1.05 / ground
        assert to_rgb(text.get_color()) == ((0, 0, 0) if darkens > lightens else (1, 1, 1))
        assert max(darkens, lightens) > 4.5


def test_an_arm_that_knows_nothing_any_more_stays_in_the_table_and_the_curves() -> None:
    runs = [a_run("blank", right=0, steps=10, updates=2)]
    runs += [a_run(name, right=80, steps=100, updates=2) for name in ("scratch", "same")]
    table = tabulate(runs, "scratch", scratch="scratch")
    sheet = against_scratch(table)
    assert sheet is not None
    assert sheet.rows[0] == ("blank", "0.0 %", "10.0 %", "10.0 %")
    figure = PICTURES["ratio"].draw(table)
    assert figure is not None
    assert "blank" in {text.get_text() for text in figure.axes[0].texts}


def test_with_one_number_of_past_periods_there_is_no_curve_against_scratch() -> None:
    def draw(updates: int) -> Figure | None:
        runs = [a_run(arm, right=80, steps=9, updates=updates) for arm in ("scratch", "rehearsal")]
        return PICTURES["ratio"].draw(tabulate(runs, "rehearsal", scratch="scratch"))

    assert draw(1) is None
    assert draw(2) is not None


@pytest.mark.parametrize("picture", ["stream", "cost", "as_deployed"])
def test_no_axis_band_or_bar_of_accuracy_leaves_what_can_be(picture: str) -> None:
    """Means of 1 and 99 %, whose intervals of two seeds are wider than that."""
    runs = [
        dataclasses.replace(a_run(arm, right=right, steps=9, updates=3), seed=seed)
        for arm, rights in (("low", (0, 2)), ("high", (98, 100)))
        for seed, right in enumerate(rights)
    ]
    if picture == "as_deployed":
        runs = [
            dataclasses.replace(
                run,
                stages=tuple(dataclasses.replace(one, verdict="accepted") for one in run.stages),
            )
            for run in runs
        ]
    figure = PICTURES[picture].draw(tabulate(runs, "low"))
    assert figure is not None
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert 0 <= low < high <= 100
        for collection in axes.collections:
            ys = np.concatenate([path.vertices for path in collection.get_paths()])[:, 1]
            assert ys.min() >= 0
            assert ys.max() <= 100
