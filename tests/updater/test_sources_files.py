"""Files of every format: rows with their lines, faults in their place, broken files named."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from updater.errors import InputError, UpdateError
from updater.ingest.rows import MAX_TEXT_CHARS
from updater.periods import Periods
from updater.settings import FieldTemplates, PeriodSettings, SourceSettings
from updater.sources import Batch, Fault, open_source
from updater.sources.batch import BATCH_ROWS
from updater.sources.lines import CHUNK_BYTES, MAX_CELL_CHARS, MAX_LINE_BYTES

FIELDS = FieldTemplates(prompt="{text}", completion="{label}", period="{month}")
ROW = {"text": "a", "label": "b", "month": "2026-01"}


def batches(
    folder: Path, uri: str, format_: str = "", fields: FieldTemplates = FIELDS
) -> list[Batch]:
    source = SourceSettings(uri=uri, format=format_, fields=fields)
    periods = Periods(PeriodSettings(every="month"))
    return list(open_source(source, folder, periods=periods, period="2026-01"))


def rows(
    folder: Path, uri: str, format_: str = "", fields: FieldTemplates = FIELDS
) -> list[tuple[str, int, Mapping[str, Any] | Fault]]:
    found = batches(folder, uri, format_, fields)
    return [(batch.file, line, values) for batch in found for line, values in batch.rows]


def fault(folder: Path, uri: str, line: int) -> Fault:
    (values,) = [values for _, n, values in rows(folder, uri) if n == line]
    assert isinstance(values, Fault)
    return values


def write(folder: Path, name: str, content: bytes | str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def write_parquet(path: Path, table: pa.Table, row_group_size: int = 100) -> None:
    pq.write_table(table, path, row_group_size=row_group_size)


JSON_LINE = json.dumps(ROW)
CSV_TEXT = "text,label,month\na,b,2026-01\n"


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.jsonl.gz", "r.csv", "r.csv.gz"])
def test_text_formats_by_suffix(tmp_path: Path, name: str) -> None:
    is_csv = ".csv" in name
    write(tmp_path, name, CSV_TEXT if is_csv else JSON_LINE + "\n")
    assert rows(tmp_path, name) == [(name, 2 if is_csv else 1, ROW)]


def test_the_format_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "rows.log", JSON_LINE)
    assert rows(tmp_path, "rows.log", "jsonl") == [("rows.log", 1, ROW)]
    with pytest.raises(InputError, match=r"set source\.format"):
        rows(tmp_path, "rows.log")


def test_globs_folders_and_urls(tmp_path: Path) -> None:
    for name in ("in/b.jsonl", "in/deep/a.jsonl", "in/.hidden.jsonl", "in/_tmp.jsonl", "in/README"):
        write(tmp_path, name, JSON_LINE)
    files = ["in/b.jsonl", "in/deep/a.jsonl"]
    assert [file for file, _, _ in rows(tmp_path, "in")] == files
    assert [file for file, _, _ in rows(tmp_path, "in/*.jsonl")][-1] == "in/b.jsonl"
    assert [file for file, _, _ in rows(tmp_path, "in/**/a.jsonl")] == files[1:]
    url = f"file://{tmp_path}/in/b.jsonl"
    assert rows(tmp_path, url) == [(url, 1, ROW)]
    memory = fsspec.filesystem("memory")
    memory.pipe("/updater-test/x.jsonl", JSON_LINE.encode())
    try:
        assert rows(tmp_path, "memory://updater-test/*.jsonl")[0][2] == ROW
    finally:
        memory.rm("/updater-test", recursive=True)


def test_a_name_with_the_signs_of_a_glob_is_a_file_first(tmp_path: Path) -> None:
    write(tmp_path, "rows[1].jsonl", JSON_LINE)
    assert len(rows(tmp_path, "rows[1].jsonl")) == 1


@pytest.mark.parametrize("uri", ["none.jsonl", "none/*.jsonl", "empty", "memory://none/x.jsonl"])
def test_nothing_there_is_an_error(tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing is there"):
        rows(tmp_path, uri)


def test_unclear_sources_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jsonl", JSON_LINE)
    write(tmp_path, "in/b.csv", CSV_TEXT)
    with pytest.raises(InputError, match="one format"):
        rows(tmp_path, "in")
    assert len(rows(tmp_path, "in", "csv")) == 1
    write(tmp_path, "c.parquet.gz", b"x")
    with pytest.raises(InputError, match="gunzip"):
        rows(tmp_path, "c.parquet.gz")
    with pytest.raises(InputError, match="nosuch"):
        rows(tmp_path, "nosuch://x/y.jsonl")


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "postgresql+psycopg://me:secret@host/rows"])
def test_a_database_without_a_query_is_asked_for_one(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match=r"source\.query") as caught:
        rows(tmp_path, uri)
    assert "SELECT" in caught.value.cure
    assert "secret" not in str(caught.value)


def test_an_unreachable_place_is_asked_again_and_then_an_update_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.retry.time.sleep", lambda seconds: None)
    with pytest.raises(UpdateError, match="attempts"):
        rows(tmp_path, "ftp://127.0.0.1:9/x.jsonl")


def test_json_faults_stand_in_their_place(tmp_path: Path) -> None:
    deep = "[" * 100_000
    bad = ["{not json", "[1]", '{"text": NaN}', "\xff", deep]
    lines = [JSON_LINE.encode(), b"", *(line.encode("latin-1") for line in bad), JSON_LINE.encode()]
    write(tmp_path, "r.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines))
    found = rows(tmp_path, "r.jsonl")
    assert [line for _, line, _ in found] == [1, 3, 4, 5, 6, 7, 8]
    assert [isinstance(values, Fault) for _, _, values in found] == [False, *[True] * 5, False]
    assert fault(tmp_path, "r.jsonl", 3).value == "{not json"
    assert fault(tmp_path, "r.jsonl", 4).rule == "must be a JSON object"
    assert "NaN" in fault(tmp_path, "r.jsonl", 5).rule
    assert fault(tmp_path, "r.jsonl", 6) == Fault("", "must be UTF-8", "\\xff")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "text"), [("r.csv", CSV_TEXT), ("r.jsonl", JSON_LINE)])
def test_utf_16_is_refused_by_its_name(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    write(tmp_path, name, text.encode(encoding))
    with pytest.raises(InputError, match=rf"{name}: line 1 is not UTF-8 .*iconv -f utf-16 -t utf"):
        rows(tmp_path, name)


def test_a_header_that_is_not_utf_8_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    write(tmp_path, "r.csv", "text,größe,month\na,b,2026-01\n".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        rows(tmp_path, "r.csv")
    assert caught.value.what == r"r.csv: line 1 is not UTF-8 (text,gr\xf6\xdfe,month)"
    assert "iconv -f latin1 -t utf-8" in caught.value.cure


@pytest.mark.parametrize(("separator", "named"), [(";", "';'"), ("\t", "a tab")])
def test_a_separator_other_than_a_comma_is_refused(
    tmp_path: Path, separator: str, named: str
) -> None:
    write(tmp_path, "r.csv", CSV_TEXT.replace(",", separator))
    with pytest.raises(InputError, match=rf"r\.csv: line 1 .*{named}.*must be a comma"):
        rows(tmp_path, "r.csv")


def test_a_column_may_have_the_name_of_two(tmp_path: Path) -> None:
    write(tmp_path, "r.csv", "text;label\na\n")
    one = FieldTemplates(prompt="{text;label}", completion="b", period="2026-01")
    assert rows(tmp_path, "r.csv", fields=one) == [("r.csv", 2, {"text;label": "a"})]


def test_lines_longer_than_a_chunk_are_whole_and_too_long_ones_faults(tmp_path: Path) -> None:
    long = {**ROW, "text": "x" * (2 * CHUNK_BYTES + 5)}
    endless = b'"' + b"y" * (MAX_LINE_BYTES + 2 * CHUNK_BYTES)
    write(tmp_path, "r.jsonl", json.dumps(long).encode() + b"\n" + endless + b"\n" + b"{}")
    found = rows(tmp_path, "r.jsonl")
    assert found[0][2] == long
    assert "at most" in fault(tmp_path, "r.jsonl", 2).rule
    assert found[2][1:] == (3, {})


def test_batches_are_bounded(tmp_path: Path) -> None:
    write(tmp_path, "r.jsonl", (JSON_LINE + "\n") * (BATCH_ROWS + 1))
    assert [len(batch.rows) for batch in batches(tmp_path, "r.jsonl")] == [BATCH_ROWS, 1]


def test_csv_rows_have_the_line_on_which_they_begin(tmp_path: Path) -> None:
    text = 'text,label,month\r\n"two\r\nlines, ""quoted""",b,2026-01\r\n\r\nc,d\r\ne,f,2026-02\r\n'
    write(tmp_path, "r.csv", text)
    found = rows(tmp_path, "r.csv")
    assert found[0][1:] == (2, {**ROW, "text": 'two\r\nlines, "quoted"'})
    assert [line for _, line, _ in found] == [2, 5, 6]
    assert fault(tmp_path, "r.csv", 5) == Fault("", "must have 3 fields, as the header has", "c,d")


def test_csv_faults(tmp_path: Path) -> None:
    long = "x" * (MAX_CELL_CHARS + 1)
    write(tmp_path, "r.csv", b'text,label,month\n\xff,b,2026-01\n"a"b,c,d\n' + long.encode())
    found = rows(tmp_path, "r.csv")
    assert found[0][2] == {**ROW, "text": "\udcff"}, "ingest refuses it as no UTF-8"
    assert "must be CSV" in fault(tmp_path, "r.csv", 3).rule
    assert fault(tmp_path, "r.csv", 3).value == '"a"b,c,d'
    assert "field larger" in fault(tmp_path, "r.csv", 4).rule
    assert fault(tmp_path, "r.csv", 4).value == long


def test_a_csv_cell_may_be_as_long_as_a_text(tmp_path: Path) -> None:
    write(tmp_path, "r.csv", f"text,label,month\n{'x' * MAX_TEXT_CHARS},b,2026-01\n")
    assert rows(tmp_path, "r.csv")[0][2] == {**ROW, "text": "x" * MAX_TEXT_CHARS}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "broken",
    ['"open,b,2026-01', 'a,"open,2026-01', '"open ""quoted"",b,2026-01', '"open', '"a"b,c,2026-01'],
)
@pytest.mark.parametrize(
    "after", ["", '"two\nlines",b,2026-01', '"",b,2026-01', '"open again,b,2026-01']
)
def test_a_broken_quote_costs_its_own_line_alone(
    tmp_path: Path, broken: str, after: str, end: str
) -> None:
    """Rows behind an unclosed quote, with no quote after them or with one of each kind."""
    good = [f"t{n},b,2026-01" for n in range(90)]
    lines = ["text,label,month", *good[:50], broken, *good[50:70], after, *good[70:]]
    write(tmp_path, "r.csv", end.join("\n".join(lines).split("\n")) + end)
    found = rows(tmp_path, "r.csv")
    texts = [values["text"] for _, _, values in found if not isinstance(values, Fault)]
    assert [text for text in texts if text.startswith("t") and text[1:].isdigit()] == [
        f"t{n}" for n in range(90)
    ]
    assert fault(tmp_path, "r.csv", 52).value == broken
    if after.startswith('"two'):
        assert f"two{end}lines" in texts
        assert [line for _, line, _ in found][-20:] == list(range(75, 95))


def test_a_row_of_several_lines_with_too_few_fields_costs_its_first(tmp_path: Path) -> None:
    write(tmp_path, "r.csv", 'text,label,month\n"a\nb,c,2026-01\nd,e"\ng,h,2026-01\n')
    good = [(line, values) for _, line, values in rows(tmp_path, "r.csv") if type(values) is dict]
    assert [(line, values["text"]) for line, values in good] == [(3, "b"), (5, "g")]
    assert fault(tmp_path, "r.csv", 2).value == '"a'


def test_a_quote_that_is_never_closed_is_read_to_a_bound(tmp_path: Path) -> None:
    line = "x" * 99 + ",b,2026-01\n"
    num_rows = 3 * MAX_CELL_CHARS // len(line)
    write(tmp_path, "r.csv", 'text,label,month\n"open,b,2026-01\n' + line * num_rows)
    found = rows(tmp_path, "r.csv")
    assert "field larger" in fault(tmp_path, "r.csv", 2).rule
    assert len(found) == num_rows + 1


@pytest.mark.parametrize("header", ["a,,b", "a,a", '"a"b'])
def test_a_csv_header_must_name_every_column_once(tmp_path: Path, header: str) -> None:
    write(tmp_path, "r.csv", f"{header}\n1,2,3\n")
    with pytest.raises(InputError, match=r"r\.csv"):
        rows(tmp_path, "r.csv")


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path, "r.csv", "")
    write(tmp_path, "r.jsonl", "")
    assert rows(tmp_path, "r.csv") == rows(tmp_path, "r.jsonl") == []


def test_parquet_gives_only_the_wanted_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None],
            "label": [1.5, 2.0],
            "month": ["2026-01"] * 2,
            "extra": ["unread"] * 2,
            "user": [{"id": 1}, None],
        }
    )
    write_parquet(tmp_path / "r.parquet", table)
    fields = FieldTemplates(prompt="{text}{user.id}", completion="{label}", period="{month}")
    (batch,) = batches(tmp_path, "r.parquet", fields=fields)
    assert batch.columns == ("text", "label", "month", "extra", "user")
    expected = {"text": "a", "label": 1.5, "month": "2026-01", "user": {"id": 1}}
    assert batch.rows[0] == (1, expected)
    other = FieldTemplates(prompt="{x}", completion="{x}", period="{x}")
    assert [b.rows for b in batches(tmp_path, "r.parquet", fields=other)] == [[(1, {}), (2, {})]]


def test_parquet_types_come_as_python_has_them(tmp_path: Path) -> None:
    moment = pa.array([1], pa.timestamp("ns", "UTC"))
    table = pa.table({"text": moment, "label": [Decimal("1.50")], "month": [date(2026, 1, 1)]})
    write_parquet(tmp_path / "r.parquet", table)
    assert rows(tmp_path, "r.parquet")[0][2] == {
        "text": datetime(1970, 1, 1, tzinfo=UTC),
        "label": Decimal("1.50"),
        "month": date(2026, 1, 1),
    }


def numbers(table: pa.Table, folder: Path, fields: FieldTemplates) -> tuple[list[int], int]:
    """The rows read, in groups of two, and how many were left out."""
    write_parquet(folder / "r.parquet", table, row_group_size=2)
    found = batches(folder, "r.parquet", fields=fields)
    return [n for b in found for n, _ in b.rows], sum(b.num_pruned for b in found)


def test_row_groups_of_other_periods_are_left_unread(tmp_path: Path) -> None:
    months = ["2025-11", "2025-12", "2025-12", "2026-02", "2026-03", "2026-04", "2026-03", None]
    table = pa.table({"text": ["a"] * 8, "label": ["b"] * 8, "month": months})
    assert numbers(table, tmp_path, FIELDS) == ([3, 4, 7, 8], 4), "7, 8: a null is to be seen"
    by_date = FieldTemplates(prompt="{text}", completion="{label}", date="{at}")
    for zone in (None, "UTC"):
        at = [datetime(2025, 12, 31), datetime(2026, 1, 31, 23), *[datetime(2026, 2, 1)] * 2]
        table = pa.table({"text": ["a"] * 4, "label": ["b"] * 4, "at": at})
        table = table.set_column(2, "at", table["at"].cast(pa.timestamp("us", zone)))
        assert numbers(table, tmp_path, by_date) == ([1, 2], 2)
    texts = pa.table({"text": ["a"] * 2, "label": ["b"] * 2, "at": ["2025-01-01"] * 2})
    assert numbers(texts, tmp_path, by_date) == ([1, 2], 0), "texts are not dates"
    mixed = FieldTemplates(prompt="{text}", completion="{label}", period="{month}-01")
    table = pa.table({"text": ["a"] * 2, "label": ["b"] * 2, "month": ["2020"] * 2})
    assert numbers(table, tmp_path, mixed) == ([1, 2], 0), "no column is the period by itself"


def test_broken_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, "whole.jsonl.gz", (JSON_LINE + "\n") * 1000)
    whole = (tmp_path / "whole.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "no.jsonl.gz").write_bytes(b"plain text")
    (tmp_path / "bad.jsonl.gz").write_bytes(whole[:12] + b"\xff\xff\xff\xff" + whole[16:])
    for name in ("cut", "no", "bad"):
        with pytest.raises(InputError, match=rf"{name}\.jsonl\.gz: broken gzip"):
            rows(tmp_path, f"{name}.jsonl.gz")
    table = pa.table({"text": [f"{n}" for n in range(9999)], "label": ["b"] * 9999})
    write_parquet(tmp_path / "whole.parquet", table)
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "holed.parquet").write_bytes(content[:100] + b"\xff" * 2000 + content[2100:])
    for name in ("cut", "holed"):
        with pytest.raises(InputError, match=rf"{name}\.parquet: broken"):
            rows(tmp_path, f"{name}.parquet")


def test_a_file_that_goes_while_it_is_found_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "r.jsonl", JSON_LINE)
    source = SourceSettings(uri="r.jsonl", fields=FIELDS)
    periods = Periods(PeriodSettings(every="month"))
    found = open_source(source, tmp_path, periods=periods, period="2026-01")
    (tmp_path / "r.jsonl").unlink()
    with pytest.raises(InputError, match=r"r\.jsonl: No such file"):
        list(found)


class FailsError(Exception):
    """As the classes that remote file systems raise, no OSError."""


@pytest.mark.parametrize(
    ("error", "words"), [(FailsError("reset"), "FailsError: reset"), (OSError(5, "I/O"), "I/O")]
)
def test_a_remote_file_that_breaks_off_is_an_update_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    memory = fsspec.filesystem("memory")
    memory.pipe("/updater-broken/x.jsonl", JSON_LINE.encode())
    try:
        monkeypatch.setattr(type(memory), "open", broken)
        with pytest.raises(UpdateError, match=words):
            rows(tmp_path, "memory://updater-broken/x.jsonl")
    finally:
        memory.rm("/updater-broken", recursive=True)
