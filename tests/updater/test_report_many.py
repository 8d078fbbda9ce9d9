"""The report at 200 periods and 50 versions: drawn in seconds, few pictures, every number there."""

import dataclasses
import html.parser
import re
import time

import browser
import pytest
from histories import history

from updater.report import figures, focus
from updater.report.data import Cell, ReportData
from updater.report.page import render

NUM_VERSIONS, NUM_PERIODS = 50, 200
HIT = 180


@pytest.fixture(scope="module")
def many() -> ReportData:
    """One period, neither the weakest nor among the newest, is hit hard by the newest version."""
    data = history(NUM_VERSIONS, first=155, rejected=tuple(range(7, NUM_VERSIONS, 11)))
    assert len(data.periods) == NUM_PERIODS
    hit = {(data.version, data.periods[HIT]): Cell(400, 750)}
    return dataclasses.replace(data, scores={**data.scores, **hit})


@pytest.fixture(scope="module")
def page(many: ReportData) -> str:
    return render(many)


class Matrix(html.parser.HTMLParser):
    """The rows of the table of class matrix."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside |= tag == "table" and ("class", "matrix") in attrs
        if self._inside and tag == "tr":
            self.rows.append([])
        if self._inside and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "table"

    def handle_data(self, data: str) -> None:
        if self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_every_number_is_in_the_page(many: ReportData, page: str) -> None:
    heading, *rows = Matrix(page).rows
    assert heading[1:] == list(many.periods)
    assert [row[0].split(" ")[0] for row in rows] == [v.id for v in reversed(many.versions)]
    for version, row in zip(reversed(many.versions), rows, strict=True):
        for period, cell in zip(many.periods, row[1:], strict=True):
            value = many.accuracy(version.id, period)
            assert cell == ("–" if value is None else f"{100 * value:.1f}"), (version.id, period)


def test_the_pictures_show_what_is_new_what_was_hit_and_the_newest(many: ReportData) -> None:
    few = focus.focused(many)
    assert len(few.periods) == focus.MOST_PERIODS
    assert {many.subject.new[0], many.periods[HIT], many.periods[-1]} <= set(few.periods)
    assert list(few.periods) == [p for p in many.periods if p in few.periods], "in their order"
    assert few.judgement is not None
    assert {c["period"] for c in few.judgement.comparisons} <= set(few.periods)


def test_a_period_that_was_not_measured_is_among_what_is_drawn(many: ReportData) -> None:
    period = many.periods[90]
    scores = {key: cell for key, cell in many.scores.items() if key != (many.version, period)}
    assert period in focus.focused(dataclasses.replace(many, scores=scores)).periods


def test_the_page_says_what_is_not_drawn(page: str) -> None:
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "All 50 versions and 200 periods at once" in words
    assert "Drawn are 24 of 200 periods" in words
    assert re.search(r"In numbers: \d+ of 50 versions, 24 of 200 periods", words)


@pytest.mark.parametrize("version", ["2", "20", "50"])
def test_the_rows_of_numbers_are_those_around_the_version(many: ReportData, version: str) -> None:
    data = dataclasses.replace(many, version=version)
    rows = [row.id for row in focus.rows(data)]
    assert len(rows) <= focus.MOST_VERSIONS
    assert {version, data.subject.base, data.deployed} <= set(rows)
    assert rows == sorted(rows, key=int)


def test_what_fits_is_drawn_whole() -> None:
    data = history(5)
    assert focus.focused(data) is data
    assert focus.rows(data) == data.versions
    assert "overview" not in [name for name, _, _ in figures.drawn(data)]
    assert "Drawn are" not in render(data)


def test_it_is_rendered_in_seconds_and_weighs_little(many: ReportData) -> None:
    """It took minutes and ten megabytes when all of it was drawn. CPU time: others share this
    machine."""
    started = time.process_time()
    page = render(many)
    assert time.process_time() - started < 20
    assert len(page) < 3_000_000


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_headings_stay_while_the_matrix_is_scrolled(page: str) -> None:
    with browser.opened(1280, 900) as shown:
        shown.set_content(page)
        assert shown.evaluate("document.body.scrollHeight") < 15_000
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1280, "nothing sticks out"
        shown.get_by_text("Every number").click()
        box = shown.locator(".tall:has(table.matrix)")
        heading, first = box.locator("th").nth(40), box.locator("tr").nth(30).locator("th").first
        for element in (heading, first):
            element.wait_for(state="attached")
        box.evaluate("e => { e.scrollTop = 300; e.scrollLeft = 700; }")
        frame, top, side = box.bounding_box(), heading.bounding_box(), first.bounding_box()
        assert frame is not None
        assert top is not None
        assert side is not None
        assert abs(top["y"] - frame["y"]) < 3, "the periods' names are at the top of the box"
        assert abs(side["x"] - frame["x"]) < 3, "the version's name is at its left"
