"""The table of objectives: every method that the settings name has one."""

from pathlib import Path
from typing import Any

import pytest

from updater.nemotron import checkpoint
from updater.settings import REGULARIZERS, RegularizerSettings
from updater.train.lesson import Lesson
from updater.train.objectives import OBJECTIVES, objective_for


@pytest.mark.parametrize("method", REGULARIZERS)
def test_every_method_has_one(method: str, base: Path, language: Any) -> None:
    assert OBJECTIVES.keys() == set(REGULARIZERS)
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, language(0, 4), language(100, 2), max_length_tokens=64)
    settings = RegularizerSettings(method=method, strength=1.0)
    found = objective_for(settings, model, lesson, progress=False)
    kinds = {"lwf": "Distilled", "der": "Distilled", "der++": "Distilled", "agem": "Projected"}
    assert type(found).__name__ == kinds.get(method, "Likelihood")
    again = objective_for(settings, model, lesson, progress=False)
    assert found.fingerprint == again.fingerprint


def test_different_objectives_have_different_fingerprints(base: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, language(0, 4), language(100, 2), max_length_tokens=64)
    different = [
        objective_for(RegularizerSettings(method=m), model, lesson, progress=False).fingerprint
        for m in ("none", "lwf", "der", "der++", "agem")
    ]
    assert len(set(different)) == 5
