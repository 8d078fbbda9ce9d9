"""Ingesting the period home from a few rows, for the tests of `updater.ingest`."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from updater.errors import InputError
from updater.ingest import FILES, Reading, Summary, ingest
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    WorkspaceSettings,
)

FIELDS = FieldTemplates(
    id="{id}", prompt="{text}\nIntent:", completion=" {intent}", period="{domain}", split="{split}"
)
PERIODS = PeriodSettings(order=("home", "work"), holdout_splits=("test",))


def made(
    fields: FieldTemplates = FIELDS, periods: PeriodSettings = PERIODS, **source: str
) -> Settings:
    return Settings(
        workspace=WorkspaceSettings(name="t"),
        source=SourceSettings(**{"uri": "rows.jsonl", **source}, fields=fields),
        periods=periods,
    )


def hashed(**fields: str) -> Settings:
    """Settings without ids and splits of the source's own: both by hash."""
    default = {"prompt": "{text}", "completion": "{intent}", "period": "{domain}"}
    periods = PeriodSettings(order=("home", "work"), holdout_fraction=0.3)
    return made(FieldTemplates(**{**default, **fields}), periods)


def row(n: int, **changes: Any) -> dict[str, Any]:
    side = "test" if n % 5 == 0 else "train"
    plain = {"id": f"r{n}", "text": f"text {n}", "intent": f"i{n % 3}", "domain": "home"}
    return {**plain, "split": side, **changes}


def write(folder: Path, rows: list[dict[str, Any] | str], name: str = "rows.jsonl") -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(
    folder: Path, rows: list | None = None, given: Settings | None = None, **more: Any
) -> tuple[Reading, Summary]:
    if rows is not None:
        write(folder, rows)
    staging = folder / f"staging-{len(list(folder.iterdir()))}"
    reading, summary = ingest(given or made(), folder, "home", staging, **more)
    assert summary is not None
    assert {path.name for path in staging.iterdir()} == set(FILES)
    return reading, summary


def run(
    folder: Path, rows: list | None = None, given: Settings | None = None, **more: Any
) -> Summary:
    return read(folder, rows, given, **more)[1]


def newest(folder: Path) -> Path:
    """The folder that the last `run` filled."""
    return max(folder.glob("staging-*"), key=lambda path: int(path.name.split("-")[1]))


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(newest(folder) / f"{name}.parquet").to_pylist()


def data(folder: Path) -> list[bytes]:
    """The files that may not depend on the order of the source."""
    names = sorted({*FILES} - {"quarantine.parquet"})
    return [(newest(folder) / name).read_bytes() for name in names]


def refused(folder: Path, rows: list | None = None, given: Settings | None = None, **m: Any) -> str:
    if rows is not None:
        write(folder, rows)
    staging = folder / "refused"
    with pytest.raises(InputError) as caught:
        ingest(given or made(), folder, "home", staging, **m)
    assert list(staging.iterdir()) == [], "nothing is left after an error"
    return str(caught.value)


ROWS: list = [row(n) for n in range(20)]
