"""JSONL and CSV, line by line, in memory that a file's length doesn't change.

Called by `updater.sources.files`. The number of a row is that of its first line in the file.
"""

import csv
import json
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from updater.errors import InputError
from updater.sources.batch import BATCH_ROWS, CONVERT_CURE, UTF_8_RULE, Batch, Fault, Wanted

# Chosen, not measured: far above any example, far below a machine's memory.
MAX_LINE_BYTES = 16 << 20
# Above what ingest takes for a text, which says so itself; below it, as so much is read at most to
# find where a quote closes.
MAX_CELL_CHARS = 1 << 20
CHUNK_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
UTF_16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read_jsonl(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[Batch]:
    """One JSON object a line; blank lines are none. A line that is not one becomes a fault.

    Raises:
        InputError: the file is UTF-16.
    """
    decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
    numbered = ((n, line) for n, line in enumerate(_lines(stream, name), 1) if not line.isspace())
    while lines := list(islice(numbered, BATCH_ROWS)):
        yield Batch(name, [(n, _object(line, decode)) for n, line in lines])


def _object(line: bytes, decode: Any) -> dict[str, Any] | Fault:
    if len(line) > MAX_LINE_BYTES:
        return Fault("", f"must be at most {MAX_LINE_BYTES} bytes", _readable(line))
    try:
        value = decode(line.decode())
    except UnicodeDecodeError:
        return Fault("", UTF_8_RULE, _readable(line))
    except (ValueError, RecursionError) as error:
        return Fault("", f"must be JSON: {error}", _readable(line))
    return value if type(value) is dict else Fault("", "must be a JSON object", _readable(line))


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_csv(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[Batch]:
    """Comma-separated rows below a header, quoted as in RFC 4180; blank lines are none.

    A row that is not one costs its first line alone: what a quote that is never closed swallowed
    is read again.

    Raises:
        InputError: the header has an empty or a repeated name, another separator than a comma,
            or is not UTF-8.
    """
    csv.field_size_limit(MAX_CELL_CHARS)  # of the whole process: the csv module knows no other
    lines = _Again(line.decode(errors="surrogateescape") for line in _lines(stream, name))
    reader = csv.reader(lines, strict=True)
    header = _header(reader, name)
    _check_separator(header, name, wanted)
    numbered = _records(reader, lines, header)
    while rows := list(islice(numbered, BATCH_ROWS)):
        yield Batch(name, rows, columns=tuple(header))


class _Again:
    """Lines, of which those after the first since `begin` can be handed out again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._waiting: deque[str] = deque()
        self._taken: list[str] = []
        self._before = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append(line)
        return line

    def begin(self) -> int:
        """A row begins; the number of its first line."""
        self._before += len(self._taken)
        self._taken.clear()
        return self._before + 1

    def back(self) -> str:
        """The row's first line is its only one: it, without its end."""
        first, *rest = self._taken
        self._waiting.extendleft(reversed(rest))
        self._taken = [first]
        return first.rstrip("\r\n")


def _header(reader: Any, name: str) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise InputError(
            f"{name}: line 1: {error}", "it must be the names of the columns"
        ) from None
    _check_utf_8(header, name)
    wrong = sorted({c for c in header if not c.strip() or header.count(c) > 1})
    if wrong:
        raise InputError(
            f"{name}: the header names {', '.join(map(repr, wrong))} emptily or twice",
            "every column must have a name of its own",
            "mend the first line of the file",
        )
    return header


def _check_utf_8(header: list[str], name: str) -> None:
    raw = ",".join(header).encode(errors="surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        what = f"{name}: line 1 is not UTF-8 ({_readable(raw)})"
        raise InputError(what, f"the file {UTF_8_RULE}", CONVERT_CURE.format("latin1")) from None


def _check_separator(header: list[str], name: str, wanted: Wanted) -> None:
    """The header is not one column that nobody asked for and that looks like several."""
    if len(header) != 1 or header[0] in wanted.columns:
        return
    for sign, named in ((";", "';'"), ("\t", "a tab")):
        if sign in header[0]:
            raise InputError(
                f"{name}: line 1 is one column, with {named} in its name: {header[0]!r}",
                "the separator must be a comma",
                "write the file with commas, or as JSONL or Parquet",
            )


def _records(
    reader: Any, lines: _Again, header: list[str]
) -> Iterator[tuple[int, dict[str, str] | Fault]]:
    while True:
        line = lines.begin()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Fault("", f"must be CSV: {error}", lines.back())
            continue
        if len(record) == len(header):
            yield line, dict(zip(header, record, strict=True))
        elif record:
            rule = f"must have {len(header)} fields, as the header has"
            yield line, Fault("", rule, lines.back())


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Lines with their line ends; of one that is too long only the first bytes, and one more than
    are allowed. A byte order mark is taken off.

    Raises:
        InputError: the file is UTF-16, of which no line could be read.
    """
    chunk = stream.read(CHUNK_BYTES).removeprefix(BOM)
    # UTF-16 has a mark of its own or, without one, a zero byte in its first letter.
    if chunk[:2] in UTF_16_BOMS or chunk[:2].count(0) == 1:
        what = f"{name}: line 1 is not UTF-8 (it looks like UTF-16)"
        raise InputError(what, f"the file {UTF_8_RULE}", CONVERT_CURE.format("utf-16"))
    tail = b""
    while chunk:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield (tail + line + b"\n") if tail else line + b"\n"
            tail = b""
        tail = (tail + rest)[: MAX_LINE_BYTES + 1]
        chunk = stream.read(CHUNK_BYTES)
    if tail:
        yield tail


def _readable(line: bytes) -> str:
    return line.decode(errors="backslashreplace").strip()
