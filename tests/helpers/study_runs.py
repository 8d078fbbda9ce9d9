"""Small streams of months for runs of a study, and what runs have alike."""

import dataclasses
from pathlib import Path

from updater.demo import tickets
from updater.initialise import init_workspace
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    TrainingSettings,
    WorkspaceSettings,
)
from updater.study.plan import Span
from updater.study.results import Run

MONTHS = ("2026-01", "2026-02", "2026-03", "2026-04")
SPAN = Span(MONTHS[:2], MONTHS[2:])
NUM_TRAIN, NUM_HOLDOUT = 48, 16
BASE = Settings(
    workspace=WorkspaceSettings(name="w"),
    source=SourceSettings(
        uri="x.jsonl", fields=FieldTemplates(prompt="{p}", completion="c", period="{d}")
    ),
    periods=PeriodSettings(order=("a", "b", "c", "d")),
    training=TrainingSettings(epochs=2),
)
"""Of a workspace whose periods are letters: what a study file is read with."""


def quiet() -> None:
    """Nobody listens."""


def untimed(done: Run) -> Run:
    """Without what no two runs have alike."""
    stages = tuple(dataclasses.replace(stage, seconds=0.0) for stage in done.stages)
    return dataclasses.replace(done, stages=stages, peak_memory_bytes=0, arm="")


_TICKETS = """
[workspace]
name = "w"
[model]
architecture = "tiny.json"
vocabulary_size = 300
[source]
uri = "tickets.jsonl"
[source.fields]
prompt = "{text}"
completion = "{category}"
date = "{date}"
[periods]
every = "month"
holdout_fraction = 0.25
"""


def of_tickets(folder: Path, architecture: str, settings: str, months: list[str]) -> None:
    """`folder` is a workspace on support tickets, 60 a month, with these settings besides."""
    config = folder.with_name(f"{folder.name}.toml")
    config.write_text(_TICKETS + settings, "utf-8")
    init_workspace(folder, config)
    (folder / "tiny.json").write_text(architecture)
    tickets.write(folder / "tickets.jsonl", months, 60, 0)
