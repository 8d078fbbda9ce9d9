"""Which value a sweep chooses."""

from updater.study.results import Run, Stage
from updater.study.sweep import best


def run(right: int, failure: str = "") -> Run:
    stages = (
        Stage("a", {"a": (9, 10), "b": (0, 10)}),
        Stage("b", {"a": (right, 10), "b": (9, 10)}),
    )
    return Run("arm", 0, ("a",), stages, failure)


def value(strength: float) -> dict[str, float]:
    return {"regularizer.strength": strength}


def test_the_best_mean_over_seeds_wins() -> None:
    tried = [(value(1.0), [run(2), run(6)]), (value(10.0), [run(5), run(5)])]
    assert best(tried) == value(10.0)


def test_of_equal_ones_the_smaller() -> None:
    tried = [(value(10.0), [run(5)]), (value(9.0), [run(5)]), (value(90.0), [run(5)])]
    assert best(tried) == value(9.0)


def test_a_value_at_which_a_seed_diverged_or_died_is_not_chosen() -> None:
    diverged, died = run(9, failure="b: diverged"), Run("arm", 0, ("a",), (), failure="killed")
    tried = [(value(1.0), [run(9), diverged]), (value(2.0), [died]), (value(3.0), [run(1)])]
    assert best(tried) == value(3.0)
    assert best(tried[:2]) is None
