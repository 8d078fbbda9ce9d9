"""The report's page and pictures on made-up histories, from a first model to 25 versions."""

import dataclasses
import functools
import html
import html.parser
import re
import xml.etree.ElementTree as ET

import pytest
from histories import history

from updater.metrics import Flip
from updater.report import figures, style
from updater.report.data import (
    Deployment,
    PeriodFlips,
    ReportData,
    known_at,
)
from updater.report.page import render

VOID = {"meta", "br", "img", "hr", "link", "input"}


def small() -> ReportData:
    data = history(4, rejected=(3,))
    back = Deployment("2026-08-01T10:00:00+00:00", "rolled_back", "1", "on-call", "latency")
    forward = Deployment("2026-09-01T10:00:00+00:00", "promoted", "4", "ana", "fixed")
    return dataclasses.replace(data, deployments=(*data.deployments[:-1], back, forward))


def large() -> ReportData:
    return history(25, first=1)


def first_model() -> ReportData:
    return history(1)


def refused() -> ReportData:
    return history(3, rejected=(3,))


def gaps() -> ReportData:
    data = history(6)
    holes = {("2", data.periods[0]), ("6", data.periods[1]), ("3", data.periods[3])}
    scores = {key: cell for key, cell in data.scores.items() if key not in holes}
    return dataclasses.replace(data, scores=scores, judgement=None, curve={}, flips=())


HOSTILE = (
    '</td></table><script>alert("x")</script><img src=x onerror=alert(1)>&amp; $\\alpha$ ${x}$'
)


def hostile() -> ReportData:
    """Text from outside that tries to break out, and names that are long or in another script."""
    data = history(3)
    names = dict(
        zip(data.periods, [f"{HOSTILE} period", "客户支持-二月", "p" * 90, "_$a_$"], strict=True)
    )
    bad = Flip(names[data.periods[0]], HOSTILE, HOSTILE * 30, HOSTILE, "", HOSTILE)
    rename = {(v, names[p]): cell for (v, p), cell in data.scores.items()}
    return dataclasses.replace(
        data,
        workspace=HOSTILE,
        periods=tuple(names.values()),
        scores=rename,
        versions=tuple(
            dataclasses.replace(
                v,
                learnt=tuple(names[p] for p in v.learnt),
                new=tuple(names[p] for p in v.new),
            )
            for v in data.versions
        ),
        flips=(PeriodFlips(names[data.periods[0]], 9, 1, 1, (bad,), (bad,)),),
        judgement=dataclasses.replace(data.judgement, reasons=(HOSTILE,)),
        deployments=tuple(dataclasses.replace(d, reason=HOSTILE) for d in data.deployments),
        config={"name": HOSTILE},
    )


SETS = {
    "small": small,
    "large": large,
    "first_model": first_model,
    "refused": refused,
    "gaps": gaps,
    "hostile": hostile,
}


class Structure(html.parser.HTMLParser):
    """Checks that tags are balanced, and keeps what could reach outside or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action", "poster", "srcset", "data"):
                self.references.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@functools.cache
def page(name: str) -> str:
    """Drawing takes most of the time, so each page is made once."""
    return render(SETS[name]())


@pytest.fixture(params=SETS)
def case(request) -> tuple[str, str]:
    return request.param, page(request.param)


def test_the_page_is_whole_and_reaches_nowhere(case):
    name, text = case
    structure = Structure()
    structure.feed(text)
    structure.close()
    assert structure.open == []
    assert structure.scripts == 0
    assert structure.handlers == []
    outside = [ref for ref in structure.references if not ref.startswith("data:image/png;base64,")]
    assert all(ref.startswith("#") for ref in outside)
    assert len(structure.ids) == len(set(structure.ids))
    named = {f"#{one}" for one in structure.ids}
    assert set(outside) <= named
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= named
    assert "@import" not in text
    assert len(text) < 1_500_000, name


def test_every_picture_is_well_formed_and_follows_the_page(case):
    name, text = case
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    shown = set(re.findall(r'aria-label="([^"]*)"', text))
    assert shown <= {picture.description for picture in figures.FIGURES.values()}
    assert len(shown) == len(svgs) == {"gaps": 4, "first_model": 4, "large": 7}.get(name, 6)
    for svg in svgs:
        ET.fromstring(svg)
        assert 'aria-label="' in svg
        assert "var(--" in svg
        assert style.INK not in svg


def visible(text: str) -> str:
    """The page's text without its pictures and tags, blanks made single."""
    text = re.sub(r"<(svg|style).*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


def test_the_page_says_what_happened():
    text = visible(page("small"))
    for said in (
        "Version 4: learnt 2024-04",
        "Accepted",
        "Users have this version now.",
        "2024-04, the new period, improved over version 2",
        "All 3 past periods hold within the margin of 5.0 points",
        "rolled back",
        "latency",
        "453 old examples by the policy “balanced”",
        "1,256 past examples, kept as factored. It takes 1.2 MB, 1 % of the base’s",
        "weights (123.5 MB)",
        "12 right → wrong, 6 wrong → right",
        "Right → wrong, 8 of 12",
        "duplicate_charge",
        "update 2024-04-00000004",
        "1 min 36 s",
        "abababab",
        "answered 300 new and 150 old ones",
        "the loss <diverged>",
        "taken",
    ):
        assert said in text, said


def test_a_rejected_version_says_so_and_that_users_never_had_it():
    text = visible(page("refused"))
    assert "Rejected" in text
    assert "Users never had this version; they have version 2." in text
    assert "by more than the margin of 5.0 points" in text
    assert "− 5" not in text


def test_a_first_model_has_no_comparison_flips_or_forgetting():
    text = visible(page("first_model"))
    assert "This is a first model" in text
    assert "Flips" not in text
    assert "Forgetting and transfer" not in text
    assert "What the gate compared" not in text
    assert "What the weights were held by" not in text


def test_what_was_not_measured_is_said_and_never_nan():
    data = dataclasses.replace(gaps(), flips_unknown=("2024-02",))
    text = render(data)
    assert "nan" not in text.lower().replace("banana", "")
    words = visible(text)
    assert "Not judged yet" in words
    assert "2024-02: not measured, so the means above are left out." in words
    assert "2024-02: not known, for there are no outcomes of both versions" in words
    assert "average_accuracy" not in data.summary()
    assert data.summary()["worst_accuracy"] > 0


def test_a_version_that_is_out_of_use_or_never_released_says_what_users_have():
    data = history(2)
    older = dataclasses.replace(data, version="1", judgement=None, flips=None, rehearsed=None)
    assert "Users had this version; now they have version 2." in visible(render(older))
    nothing = dataclasses.replace(first_model(), deployments=())
    assert "Nothing is deployed yet." in visible(render(nothing))


def test_hostile_text_stays_text():
    text = page("hostile")
    assert "<script" not in text
    assert "onerror" in visible(text)
    assert "<img" not in text
    assert len(re.findall("onerror", text)) >= 8


def test_many_new_periods_are_named_by_their_ends():
    assert "Version 1: learnt 2024-01 to 2024-06 (6 periods)" in visible(
        render(history(1, first=6))
    )


def test_the_summary_is_what_the_matrix_says():
    data = small()
    row = [data.accuracy("4", period) for period in data.periods]
    summary = data.summary()
    assert summary["average_accuracy"] == pytest.approx(sum(row) / 4)
    assert summary["worst_accuracy"] == min(row)
    assert summary["num_negative_flips"] == 50
    assert summary["average_forgetting"] == pytest.approx(-summary["backward_transfer"])
    assert all(isinstance(value, float) for value in summary.values())


def test_the_lineage_leaves_the_rejected_version_out():
    data = small()
    assert [row.id for row in data.lineage()] == ["1", "2", "4"]
    assert data.chain().learnt_at == (0, 0, 1, 2)
    with pytest.raises(KeyError):
        data.find("9")


def test_periods_that_were_served_stay_served_after_a_rollback():
    data = small()
    served = known_at(data.deployments, data)
    assert [len(periods) for periods in served] == [2, 3, 3, 4]


def test_pictures_are_saved_as_files(tmp_path):
    saved = figures.save_all(small(), tmp_path / "pictures")
    assert {path.name for path in saved} == {
        f"{name}.png" for name in figures.FIGURES if name not in ("overview", "what_went")
    }
    for path in saved:
        assert path.read_bytes().startswith(b"\x89PNG")
    few = figures.save_all(first_model(), tmp_path / "first")
    for path in figures.save_all(first_model(), tmp_path / "again"):
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()
    assert {path.stem for path in few} == {
        "score_matrix",
        "accuracy_over_versions",
        "as_deployed",
        "training_curve",
    }


def test_heatmap_numbers_can_be_read_on_every_shade():
    """Contrast of the cell's text at least 4.5 to 1 (WCAG 2.1, success criterion 1.4.3)."""

    def luminance(colour) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def rgb(text: str):
        return [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]

    for k in range(101):
        ground, ink = (
            luminance(style.SCALE(k / 100)),
            luminance(rgb(style.on(style.SCALE(k / 100)))),
        )
        contrast = (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05)
        assert contrast >= 4.5, k


def test_long_names_lose_their_middle():
    assert style.shortened("short") == "short"
    assert len(style.shortened("a" * 50 + "z" * 50, 22)) == 22
    assert style.shortened("a" * 50 + "z" * 50, 22).endswith("z")
