"""Ingest of a whole period that is refused, broken off or impossible: told, and nothing left."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingesting import ROWS, hashed, made, refused, row, run, write

from updater.errors import InputError
from updater.ingest import Known, ingest
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
)


def test_an_empty_period_says_what_was_there(tmp_path: Path) -> None:
    message = refused(tmp_path, [row(n, domain="garden") for n in range(3)])
    assert "3 rows read, 3 of other periods" in message
    assert "garden" in message
    assert message.startswith("no row belongs to home; ")
    assert "0 rows read" in refused(tmp_path, [])


@pytest.mark.parametrize("broken", [{"text": None}, {"at": None}], ids=str)
def test_a_month_without_rows_says_so_first(tmp_path: Path, broken: dict) -> None:
    fields = FieldTemplates(prompt="{text}", completion="{intent}", date="{at}")
    periods = PeriodSettings(every="month", holdout_fraction=0.5)
    rows = [row(n, at="2026-01-02") for n in range(40)]
    write(tmp_path, [*rows, *[row(n, at="2026-01-03") | broken for n in range(6)]])
    with pytest.raises(InputError) as caught:
        ingest(made(fields, periods), tmp_path, "2025-12", tmp_path / "s")
    assert str(caught.value).startswith("no row belongs to 2025-12; ")
    assert "source.fields.date" in caught.value.cure


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_mostly_latin_1_rows_say_how_to_convert_them(tmp_path: Path, name: str) -> None:
    rows = [row(n, text=f"größe {n}") for n in range(20)]
    lines = [json.dumps(r, ensure_ascii=False) for r in rows]
    if name == "rows.csv":
        lines = [",".join(rows[0]), *[",".join(r.values()) for r in rows]]
    (tmp_path / name).write_bytes("\n".join(lines).encode("latin-1"))
    message = refused(tmp_path, None, made(uri=name))
    assert "must be UTF-8 (x20, first in" in message
    assert f"first such row is in {name}, line {2 if name == 'rows.csv' else 1}" in message
    assert "iconv -f latin1 -t utf-8" in message


def test_mostly_bad_rows_are_a_wrong_mapping(tmp_path: Path) -> None:
    message = refused(tmp_path, [*ROWS[:5], *[row(n, text=None) for n in range(6)]])
    found = "prompt: column text must not be null (x6, first in rows.jsonl, line 6)"
    assert f"6 quarantined ({found})" in message
    run(tmp_path, [*ROWS[:6], *[row(n, text=None) for n in range(6)]])


def test_a_refusal_says_which_rules_were_broken_where_and_keeps_the_rows(tmp_path: Path) -> None:
    bad = [
        *({"text": None}, {"intent": None}, {"id": None}, {"split": None}, {"text": " "}),
        *({"intent": " "}, {"text": "a\0b"}, {"text": None}),
    ]
    message = refused(tmp_path, [ROWS[0], *(row(n, **change) for n, change in enumerate(bad))])
    assert (
        "8 quarantined (prompt: column text must not be null (x2, first in rows.jsonl, line 2)"
        in (message)
    )
    assert "completion: column intent must not be null (x1, in rows.jsonl, line 3)" in message
    assert "; and 2 more rules), " in message
    kept = tmp_path / "cache" / "refused" / "home.parquet"
    assert message.endswith(f"all 8 quarantined rows, as Parquet: {kept}.")
    assert [r["line"] for r in pq.read_table(kept).to_pylist()] == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_refusal_without_a_bad_row_names_no_report(tmp_path: Path) -> None:
    assert "Parquet" not in refused(tmp_path, [row(n, domain="garden") for n in range(3)])
    assert not (tmp_path / "cache").exists()


def test_broken_rows_of_unknown_period_are_judged_beside_all_rows(tmp_path: Path) -> None:
    good: list = [row(n) for n in range(100)]
    broken: list = ["{not json", row(0, domain=None)] * 60
    others = [row(n, domain="work") for n in range(1000, 1020)]
    assert run(tmp_path, [*good, *broken, *others]).num_unplaced == 120
    message = refused(tmp_path, [*good, *broken, *others[1:]])
    assert "239 rows read" in message
    assert "must have a period; 120 have not" in message
    bad = [row(n, text=None) for n in range(101)]
    assert "must be good" in refused(tmp_path, [*good, *bad, *others * 9])


def test_a_period_needs_both_sides(tmp_path: Path) -> None:
    assert "train examples" in refused(tmp_path, [row(n, split="test") for n in range(5)])
    periods = PeriodSettings(order=("home",), holdout_fraction=1e-9)
    fields = FieldTemplates(prompt="{text}", completion="{intent}", period="{domain}")
    assert "holdout_fraction" in refused(tmp_path, ROWS, made(fields, periods))


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row(n).items() if k != "text"} for n in range(5)]
    message = refused(tmp_path, rows)
    assert "no column 'text'" in message
    assert "domain, id, intent, split" in message
    assert "has changed" in refused(tmp_path, rows, known=Known(schema={"text": "string"}))
    assert "no column 'when'" in refused(tmp_path, ROWS, hashed(period="{when}"))
    pq.write_table(pa.table({"domain": ["home"], "body": ["a"]}), tmp_path / "r.parquet")
    assert "body, domain" in refused(tmp_path, None, made(uri="r.parquet"))


def test_a_column_of_another_type_is_a_changed_schema(tmp_path: Path) -> None:
    before = run(tmp_path, [row(n, intent=n) for n in range(20)]).schema
    assert before["intent"] == "integer"
    message = refused(tmp_path, ROWS, known=Known(schema=before))
    assert "'intent' was integer and is string" in message
    stray = [*ROWS, row(99, intent=5)]
    told = {**before, "intent": "string", "gone": "string"}
    run(tmp_path, stray, known=Known(schema=told))
    numbers: list = [row(n, intent=n + 0.5 if n % 2 else n) for n in range(20)]
    assert "is number" in refused(tmp_path, numbers, known=Known(schema=before))
    known = Known(schema={"intent": "number"})
    run(tmp_path, [row(n, intent=n) for n in range(20)], known=known)


def test_what_is_wrong_before_any_row(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(InputError, match="no period"):
        ingest(made(), tmp_path, "garden", tmp_path / "s")
    assert "nothing is there" in refused(tmp_path, None, made(uri="gone.jsonl"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="not empty"):
        ingest(made(), tmp_path, "home", tmp_path / "full")
    assert (tmp_path / "full" / "x").exists()


def test_a_broken_source_leaves_nothing(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row(n)) + "\n" for n in range(9000)).encode())
    (tmp_path / "r.jsonl.gz").write_bytes(whole[:-100])
    assert "broken gzip" in refused(tmp_path, None, made(uri="r.jsonl.gz"))


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    write(tmp_path, ROWS)
    with pytest.raises(KeyboardInterrupt):
        ingest(made(), tmp_path, "home", tmp_path / "s", progress=interrupt)
    assert list((tmp_path / "s").iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[2])))
from ingesting import made
from updater.errors import UpdateError
from updater.ingest import ingest
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    ingest(made(), folder, "home", folder / "s")
except UpdateError as error:
    print(len(list((folder / "s").iterdir())), error)
"""


@pytest.mark.parametrize("most_bytes", [1 << 14, 1 << 20])
def test_a_full_disk_is_an_update_error_and_leaves_nothing(tmp_path: Path, most_bytes: int) -> None:
    """A limit on the size of a file stands for the full disk: the same calls fail."""
    draw = random.Random(0)
    rows: list = [row(n, text=draw.randbytes(500).hex()) for n in range(3000)]
    write(tmp_path, rows)
    here = str(Path(__file__).parents[1] / "helpers")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), here, str(most_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("0 period home can't be written"), done.stdout + done.stderr
