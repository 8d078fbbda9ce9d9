"""docs/configuration.md names every key with its default, and the example of `init` is sound."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from updater import config
from updater.initialise import EXAMPLE
from updater.settings import SearchSettings, Settings

DOCS = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")


def keys() -> list[tuple[str, str, object]]:
    sections = {f.name: f.type for f in dataclasses.fields(Settings)}
    sections["training.search"] = SearchSettings
    return [
        (section, field.name, field.default)
        for section, kind in sections.items()
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(("section", "key", "default"), keys(), ids=lambda v: str(v)[:30])
def test_every_key_is_documented_with_its_default(section: str, key: str, default: object) -> None:
    if (section, key) == ("source", "fields"):
        return
    names = (f"`{key}`", f"`{section}.{key}`")
    lines = [line for line in DOCS.splitlines() if any(name in line for name in names)]
    assert lines, f"[{section}] {key}"
    if isinstance(default, str) and default:
        shown = f'`"{default}"`'
        assert any(shown in line for line in lines), f"[{section}] {key} = {default}: {lines}"
    if isinstance(default, bool):
        shown = f"`{str(default).lower()}`"
        assert any(shown in line for line in lines), f"[{section}] {key} = {default}: {lines}"
    if isinstance(default, int | float) and not isinstance(default, bool):
        found = {float(number) for number in re.findall(r"`(\d[\d.e-]*)`", "".join(lines))}
        assert float(default) in found, f"[{section}] {key} = {default}: {lines}"


def test_the_example_that_init_writes_is_sound(tmp_path: Path) -> None:
    (tmp_path / "updater.toml").write_text(EXAMPLE.format(name="mine"), "utf-8")
    assert config.load(tmp_path, (), {}).workspace.name == "mine"


def test_the_example_shows_how_to_ship_smaller_and_ships_as_it_is(tmp_path: Path) -> None:
    """What it names are the defaults, and what stands there as a comment is right once it isn't."""
    example = tomllib.loads(EXAMPLE.format(name="mine"))
    assert example["compression"] == {"method": "none", "quantize": "none"}
    text = EXAMPLE.format(name="mine").replace('method = "none" ', 'method = "obd" ')
    for commented, value in (("remove", '"experts"'), ("sparsity", "0.25")):
        text, num = re.subn(rf"^# {commented} = \S+", f"{commented} = {value}", text, flags=re.M)
        assert num == 1
    (tmp_path / "updater.toml").write_text(text, "utf-8")
    found = config.load(tmp_path, (), {}).compression
    assert (found.method, found.remove, found.sparsity) == ("obd", "experts", 0.25)


def test_no_document_has_a_merge_left_in_it() -> None:
    root = Path(__file__).parents[2]
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    marked = re.compile(r"^(<{7}|={7}|>{7})", re.MULTILINE)
    assert [page for page in pages if marked.search(page.read_text("utf-8"))] == []
