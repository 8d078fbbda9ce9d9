"""What MLflow is told of a study's arms, and which of them updates are measured against."""

from collections.abc import Callable
from pathlib import Path

import pytest

from updater.config import override
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    WorkspaceSettings,
)
from updater.study.conduct import Conducted
from updater.study.finish import _differing, _digest, _table
from updater.study.plan import Arm, Span, Study
from updater.study.ratios import ratios
from updater.study.results import Run

SETTINGS = Settings(
    workspace=WorkspaceSettings(name="w"),
    source=SourceSettings(
        uri="x.jsonl", fields=FieldTemplates(prompt="{p}", completion="c", period="{d}")
    ),
    periods=PeriodSettings(order=("a", "b")),
)


def test_settings_and_options_that_are_not_alike_in_all_arms(tmp_path: Path) -> None:
    strong = override(SETTINGS, {"regularizer": {"strength": 7.0}}, "test")
    arms = (
        Arm("light", "average", SETTINGS, weight=0.3),
        Arm("heavy", "average", SETTINGS, weight=0.7),
        Arm("theirs", "avalanche", strong, strategy="ewc"),
    )
    study = Study("s", (0,), Span(("a",), ("b",)), None, arms, SETTINGS)
    found = _differing(Conducted(study, (), (), tmp_path, keys=(), is_part=False))
    own = SETTINGS.regularizer.strength
    names = ("regularizer.strength", "kind", "weight", "strategy")
    values = [(own, "average", 0.3, ""), (own, "average", 0.7, ""), (7.0, "avalanche", 0.5, "ewc")]
    assert found == {
        arm.name: dict(zip(names, some, strict=True))
        for arm, some in zip(arms, values, strict=True)
    }


def test_a_renamed_arm_is_another_run_of_mlflow_as_another_setting_is() -> None:
    """Its parameters name the reference, and MLflow changes no parameter."""

    def digest(name: str, key: str) -> str:
        arms = (Arm(name, "update", SETTINGS), Arm("frozen", "frozen", SETTINGS))
        study = Study("s", (0,), Span(("a",), ("b",)), None, arms, SETTINGS)
        return _digest(Conducted(study, (), (), Path(), keys=(key,), is_part=False))

    assert digest("replay", "k") == digest("replay", "k")
    assert len({digest("replay", "k"), digest("other", "k"), digest("replay", "l")}) == 3


def a_study(*arms: Arm) -> Study:
    return Study("s", (0,), Span(("a",), ("b",)), None, arms, SETTINGS)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ({"late": ("scratch", "last"), "anew": ("scratch", "each"), "too": ("scratch", "each")}, 1),
        ({"up": ("update", "each"), "late": ("scratch", "last"), "too": ("scratch", "last")}, 1),
        ({"scratch": ("update", "each")}, None),
    ],
)
def test_scratch_is_an_arm_by_its_kind_rather_one_that_trains_at_each_update(
    kinds: dict[str, tuple[str, str]], found: int | None
) -> None:
    study = a_study(*(Arm(name, kind, SETTINGS, every) for name, (kind, every) in kinds.items()))
    assert study.scratch == ("" if found is None else list(kinds)[found])


def test_the_table_has_the_plans_scratch_whatever_it_is_called(
    make_arm: Callable[..., list[Run]],
) -> None:
    study = a_study(Arm("up", "update", SETTINGS), Arm("anew", "scratch", SETTINGS))
    runs = (*make_arm("up", 0.9, seeds=1), *make_arm("anew", 1.0, seeds=1, grows=True))
    table = _table(Conducted(study, runs, (), Path(), keys=(), is_part=False))
    assert table.scratch == "anew"
    assert ratios(table)["accuracy"].keys() == {"up"}
