"""Where the demo may work: in what is new, empty or its own, and nowhere else.

The tour itself is tests/story/test_tour.py.
"""

from pathlib import Path

import pytest

from updater.cli import run
from updater.demo import tour


def said(capfd: pytest.CaptureFixture[str], folder: Path) -> str:
    """The one line on stderr of a demo that ends with exit code 2."""
    capfd.readouterr()
    assert run(["demo", str(folder)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {"tickets.jsonl": "a year of ours"},
        {"notes.txt": "n", "a.csv": "a", "b.csv": "b", "c.csv": "c"},
        {".git/HEAD": "ref: refs/heads/main"},
        {"updater.toml/why": "a folder"},
    ],
)
def test_a_folder_with_somebodys_files_is_refused_and_left_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    folder = tmp_path / "mine"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = contents(folder)
    line = said(capfd, folder)
    assert line.startswith(f"updater: {folder} is not empty: it holds {sorted(files)[0][:4]}")
    assert "take it in a new folder (`make demo DEMO=DIR`" in line
    assert "delete" not in line
    assert contents(folder) == before


def test_somebodys_workspace_is_never_offered_for_deletion(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "updater.toml").write_text('[workspace]\nname = "ours"\n')
    before = contents(tmp_path)
    line = said(capfd, tmp_path)
    assert "holds another workspace" in line
    assert "delete" not in line
    assert contents(tmp_path) == before


def test_a_file_is_no_folder_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert said(capfd, file).startswith(f"updater: {file} is a file. ")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("left", [(), (".updater.toml.4711",), ("updater.toml",)])
def test_what_a_killed_one_left_is_gone_on_with(tmp_path: Path, left: tuple[str, ...]) -> None:
    folder = tmp_path / "demo"
    for name in left:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(tour.CONFIG)
    for _ in range(2):
        tour._workspace(folder, tour.CONFIG, 2, progress=False)
    assert (folder / "updater.toml").read_text() == tour.CONFIG
    assert len((folder / "tickets.jsonl").read_text().splitlines()) == 10
