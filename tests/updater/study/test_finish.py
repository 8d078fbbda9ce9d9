"""What MLflow is told of a study's arms: where they differ, and nothing that they share."""

from pathlib import Path

from updater.config import override
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    WorkspaceSettings,
)
from updater.study.conduct import Conducted
from updater.study.finish import _differing, _digest
from updater.study.plan import Arm, Span, Study

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
