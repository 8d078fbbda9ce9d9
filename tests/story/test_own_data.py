"""The guide for one's own data, docs/own-data.md, followed line by line with data of its form."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import command
from pages import blocks, run_script
from stack import ROOT

KNOWN, NEW = ("2026-01", "2026-02", "2026-03"), "2026-04"
ID = "2026-04-4131d05c"  # the guide's update; the one that is made here has another


LEARNS_FAST = {  # what the guide leaves at its defaults: the model here is as small as can be
    "UPDATER_MODEL_VOCABULARY_SIZE": "320",
    "UPDATER_GATE_MARGIN_FRACTION": "0.3",  # thirty holdout examples cannot tell five points
    "UPDATER_REHEARSAL_FRACTION": "0.5",
    "UPDATER_REGULARIZER_NUM_EXAMPLES": "16",
    "UPDATER_TRAINING_BATCH_SIZE": "16",
    "UPDATER_TRAINING_LEARNING_RATE": "5e-3",
    "UPDATER_SCRATCH_EPOCHS": "10",
    "UPDATER_SCRATCH_LEARNING_RATE": "5e-3",
}


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_json: str,
    lay_out: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Where the reader stands: exports in the form of the guide's row, and a checkpoint that knows
    their first three months."""
    for name, value in LEARNS_FAST.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "exports").mkdir()
    keys = json.loads(blocks("own-data.md", "json")[0])
    lines = (lay_out(tmp_path / "rows") / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    regions = dict.fromkeys(row["region"] for row in rows)
    for month, region in zip((*KNOWN, NEW), regions, strict=True):
        with (tmp_path / "exports" / f"{month}.jsonl").open("w") as file:
            for row in rows:
                if row["region"] == region:
                    values = (row["id"], f"{month}-03T09:14:00+01:00", row["text"], row["answer"])
                    file.write(json.dumps(dict(zip(keys, values, strict=True))) + "\n")
    before = tmp_path / "before"
    before.mkdir()
    (before / "tiny.json").write_text(tiny_json)
    (before / "updater.toml").write_text(blocks("own-data.md", "toml")[0])
    command(before, "init", str(before))
    scratch = ("scratch", "--set", "model.architecture=tiny.json", "--deploy", "--periods", *KNOWN)
    command(before, *scratch)
    command(before, "export", "1", str(tmp_path / "checkpoint"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guide_leads_from_exports_and_a_checkpoint_to_a_decision(place: Path) -> None:
    """Its own commands in its own order, each by a shell; only the ID of the update is another."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ, said = {**os.environ, "PATH": path}, dict[str, str]()
    for line in "".join(blocks("own-data.md", "sh")).splitlines():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environ[name] = value
            continue
        if ID in line:
            waiting = command(place / "my-model", "status")["awaiting_approval"]
            if line.startswith("updater reject"):
                assert waiting == []  # the other of the two came before
                continue
            line = line.replace(ID, waiting[0])
        untimed = " --no-timing" if line.startswith("updater doctor") else ""  # half a minute
        said[line] = run_script(line + untimed, place, environ)
        if line.startswith("updater init"):
            (place / "my-model" / "updater.toml").write_text(blocks("own-data.md", "toml")[0])
    assert "This machine can update it" in said["updater doctor --model checkpoint"]
    shown = [shape(text) for text in blocks("own-data.md", "text")]
    told = ("ingest 2026-01", "adopt checkpoint --periods 2026-01..2026-03", "update 2026-04")
    for words, wanted in zip(told, shown, strict=True):
        found = shape(said[f"updater {words}"])
        assert [line for line in wanted if line not in found] == []
    assert (place / "report.html").stat().st_size > 100_000
    left = {path.name for path in place.iterdir()} - {"before", "rows"}  # those are the fixture's
    for name in (".gitignore", ".dockerignore"):
        lines = (ROOT / name).read_text("utf-8").splitlines()
        assert left <= {line.strip("/") for line in lines}, f"{name}: the guide followed in a clone"
    kinds = [event["kind"] for event in command(place / "my-model", "history")["events"]]
    told = [kind for kind in kinds if kind not in ("verified", "judged")]
    assert told == ["promoted", "approved", "promoted", "rolled_back"]


def shape(text: str) -> list[str]:
    """Lines up to their first figure, without a cut end and with columns of any width: those that
    the guide shows must be said by the command."""
    begun = [re.split(r"\d", line.removesuffix(".."), maxsplit=1)[0] for line in text.splitlines()]
    return [" ".join(line.split()) for line in begun]
