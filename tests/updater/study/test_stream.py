"""The periods that a study runs over, and what is held back of them."""

import json
from pathlib import Path

import pytest
from study_runs import MONTHS, NUM_TRAIN, SPAN

from updater.errors import InputError
from updater.initialise import init_workspace
from updater.study.plan import Span, Validation
from updater.study.stream import Stream, held_back, of_workspace
from updater.workspace import Workspace

CLINC = Path(__file__).parents[3] / "docs" / "studies" / "clinc.workspace.toml"


def test_what_is_held_back_is_scored_and_not_learnt(stream: Stream, tmp_path: Path) -> None:
    validation = Validation(SPAN, (0,), 0.25)
    split = held_back(stream, validation, tmp_path)
    assert held_back(stream, validation, tmp_path) == split
    for month in MONTHS:
        train, holdout, whole = (
            set(table["id"].to_pylist())
            for table in (split.train(month), split.holdout(month), stream.train(month))
        )
        assert not train & holdout
        assert train | holdout == whole
        assert len(holdout) == NUM_TRAIN // 4
        assert not holdout & set(stream.holdout(month)["id"].to_pylist())
        assert split.data[month].digest != stream.data[month].digest


def test_too_few_to_hold_some_back_is_told(stream: Stream, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 train examples are left and 48 held back"):
        held_back(stream, Validation(SPAN, (0,), 0.99), tmp_path)


def test_a_period_without_a_holdout_cannot_be_studied(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    init_workspace(workspace, CLINC)
    rows = [
        {"id": f"{domain}-{split}-{n}", "intent": "yes", "domain": domain, "split": split}
        for domain, split in (("banking", "train"), ("banking", "test"), ("home", "train"))
        for n in range(3)
    ]
    lines = [json.dumps(row | {"text": f"words of {row['id']}"}) for row in rows]
    (workspace / "clinc150.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="period home has 3 train and 0 holdout examples"):
        of_workspace(Workspace.open(workspace), Span(("banking",), ("home",)))
