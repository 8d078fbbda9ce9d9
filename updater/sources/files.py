"""Files: which ones a URI names, and their rows.

Not the formats (`lines`, `parquet`). Called by `updater.sources`.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from store.errors import UnreachableError
from store.retry import with_backoff
from updater.errors import InputError, UpdateError
from updater.settings import FORMATS, SourceSettings, without_password
from updater.sources.batch import Batch, Wanted
from updater.sources.lines import read_csv, read_jsonl
from updater.sources.parquet import read_parquet

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
READERS = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet}
# The databases of SQLAlchemy; none of these names is a file system of fsspec.
DATABASES = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class _AwayError(Exception):
    """A place did not answer; it may when it is asked again."""


class SourceFile(NamedTuple):
    """One file of a source. `name` is what people see."""

    filesystem: Any
    path: str
    name: str
    format: str

    @property
    def is_gzip(self) -> bool:
        return self.path.lower().endswith(".gz")

    @property
    def is_remote(self) -> bool:
        return not isinstance(self.filesystem, LocalFileSystem)


def find_files(source: SourceSettings, workspace: Path) -> list[SourceFile]:
    """The files that `source.uri` names, in the order of their paths; all of one format.

    A folder stands for the files below it whose suffix is that of the format (of any format, if
    none is configured); names that begin with `.` or `_` are not data, as elsewhere.

    Raises:
        InputError: there is none, their format is unclear, or the URI is a database's.
        UpdateError: a remote place can't be reached.
    """
    workspace = workspace.absolute()
    uri = source.uri if "://" in source.uri else str(workspace / Path(source.uri).expanduser())
    shown = without_password(source.uri)
    _check_no_database(source.uri, shown)
    try:
        filesystem, path, paths = with_backoff(
            lambda: _asked(uri, source.format), on=(_AwayError,), what=f"the source {shown}"
        )
    except UnreachableError as error:
        raise UpdateError(str(error)) from error
    except (ImportError, ValueError, PermissionError) as error:
        cure = "give a path, or a URL whose fsspec package is installed, that may be read"
        raise InputError(f"source.uri = {shown!r}: {error}", "", cure) from error
    if not paths:
        raise InputError(
            f"source.uri = {shown!r}: nothing is there"
            + ("" if "://" in source.uri else f" (looked for {path})"),
            f"it must name a file, a folder with {', '.join(SUFFIXES)} files, or a glob that "
            "matches some",
            "mend source.uri in updater.toml, or put the file back",
        )
    files = [
        SourceFile(filesystem, p, _shown(filesystem, p, uri, workspace), _format(p, source))
        for p in paths
    ]
    if len(formats := sorted({file.format for file in files})) > 1:
        rule = "all files of a source must have one format"
        cure = "name it as source.format, or write a glob such as FOLDER/*.csv"
        raise InputError(f"source.uri = {shown!r} holds {', '.join(formats)}", rule, cure)
    for file in files:
        if file.is_gzip and file.format == "parquet":
            rule = "Parquet compresses by itself"
            raise InputError(f"{file.name} is Parquet in gzip", rule, "unpack it with gunzip")
    return files


def read_files(files: list[SourceFile], wanted: Wanted) -> Iterator[Batch]:
    """The rows of `files`, file after file.

    Raises:
        InputError: a file is gone, cut off, or not of its format.
        UpdateError: a file can't be read, through no fault of its own.
    """
    for file in files:
        with _errors_named(file), file.filesystem.open(file.path, "rb") as raw:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw) if file.is_gzip else raw)
            yield from READERS[file.format](stream, file.name, wanted)


def _check_no_database(uri: str, shown: str) -> None:
    scheme, is_url, _ = uri.partition("://")
    if is_url and scheme.lower().partition("+")[0] in DATABASES:
        raise InputError(
            f"source.uri = {shown!r} is a database, and source.query is empty",
            "rows come out of a database by a query",
            "set source.query to a SELECT that uses :period, or :start and :end",
        )


def _asked(uri: str, format_: str) -> tuple[Any, str, list[str]]:
    """The file system, the path in it, and the files there."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem, path, _matches(filesystem, path, format_)
    except (ImportError, ValueError, PermissionError):
        raise
    except Exception as error:  # remote file systems raise classes of their own
        raise _AwayError(f"{type(error).__name__}: {error}") from error


def _matches(filesystem: Any, path: str, format_: str) -> list[str]:
    if filesystem.isfile(path):
        return [path]
    if filesystem.isdir(path):
        found = filesystem.find(path)
        start = len(path.rstrip("/")) + 1
        return sorted(p for p in found if _is_data(p[start:], format_))
    if any(sign in path for sign in "*?["):
        return sorted(p for p in filesystem.glob(path) if filesystem.isfile(p))
    return []


def _is_data(path: str, format_: str) -> bool:
    known = SUFFIXES.get(_suffix(path))
    is_hidden = any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)
    return not is_hidden and known is not None and format_ in ("", known)


def _suffix(path: str) -> str:
    pure = PurePosixPath(path.lower())
    return PurePosixPath(pure.stem).suffix if pure.suffix == ".gz" else pure.suffix


def _format(path: str, source: SourceSettings) -> str:
    found = source.format or SUFFIXES.get(_suffix(path), "")
    if not found:
        raise InputError(
            f"{path}: its suffix names no format",
            f"a file must end in {', '.join(SUFFIXES)} (or these with .gz)",
            f"set source.format in updater.toml to one of {', '.join(FORMATS)}",
        )
    return found


def _shown(filesystem: Any, path: str, uri: str, workspace: Path) -> str:
    """A file's name in errors and in the quarantine: short where it is in the workspace."""
    if "://" in uri:
        return without_password(filesystem.unstrip_protocol(path))
    given = Path(path)
    return str(given.relative_to(workspace)) if given.is_relative_to(workspace) else path


@contextmanager
def _errors_named(file: SourceFile) -> Iterator[None]:
    """Errors of reading name the file, and say whether it or the way to it is at fault."""
    whole = "it must be whole"
    again = "fetch or write the file again"
    try:
        yield
    except (InputError, UpdateError):
        raise
    except GONE as error:
        rule = "a file of the source must be readable"
        raise InputError(f"{file.name}: {os.strerror(error.errno or 2)}", rule) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{file.name}: broken gzip ({error})", whole, again) from error
    except pa.ArrowInvalid as error:
        raise _not_parquet(file, error) from error
    except OSError as error:
        if file.format == "parquet" and error.errno is None:  # Arrow's word for corrupt pages
            raise _not_parquet(file, error) from error
        raise UpdateError(f"{file.name} can't be read: {error}. Run it again.") from error
    except Exception as error:
        if not file.is_remote:
            raise
        reason = f"{type(error).__name__}: {error}"  # of a class of the file system's own
        raise UpdateError(f"{file.name} broke off: {reason}. Run it again.") from error


def _not_parquet(file: SourceFile, error: Exception) -> InputError:
    reason = str(error).splitlines()[0]
    rule = f"source.format is {file.format}: it must be a whole file of that format"
    return InputError(f"{file.name}: broken ({reason})", rule, "fetch or write the file again")
