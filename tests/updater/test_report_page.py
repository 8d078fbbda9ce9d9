"""The report's page and pictures on made-up histories, from a first model to 25 versions."""

import dataclasses
import functools
import html
import html.parser
import random
import re
import xml.etree.ElementTree as ET

import pytest

from updater.gate import Paired, Rule, decide
from updater.metrics import Flip
from updater.report import figures, style
from updater.report.data import (
    Cell,
    Dataset,
    Deployment,
    Importance,
    Judgement,
    PeriodFlips,
    Rehearsed,
    ReportData,
    Searched,
    Version,
    Window,
    known_at,
)
from updater.report.page import render
from updater.trials import Trial

VOID = {"meta", "br", "img", "hr", "link", "input"}


def history(
    num_versions: int, *, first: int = 2, rejected: tuple[int, ...] = (), seed: int = 1
) -> ReportData:
    """A workspace whose version 1 learnt `first` periods and each later one a further period.

    Versions in `rejected` (1-based) forgot, were refused, and the next started at their base.
    """
    rng = random.Random(seed)
    periods = tuple(
        f"20{24 + i // 12}-{i % 12 + 1:02d}"
        for i in range(first + num_versions - 1 - len(set(rejected) - {num_versions}))
    )
    versions, deployments = [], []
    scores: dict[tuple[str, str], Cell] = {}
    base, learnt, n = None, first, 750
    for v in range(1, num_versions + 1):
        if v > 1 and (v - 1) not in rejected:
            learnt += 1
        bad = v in rejected
        row = periods[:learnt]
        versions.append(
            Version(
                id=str(v),
                kind="scratch" if base is None else "update",
                base=base,
                learnt=row,
                new=row if base is None else row[-1:],
                verdict="rejected" if bad else "accepted",
                was_deployed=not bad,
                created_at=f"2026-{(v - 1) % 12 + 1:02d}-03T09:12:44+00:00",
                update=f"{row[-1]}-{v:08x}",
                digest=f"{v:02x}" * 32,
                run_id=f"{v:032x}",
            )
        )
        for j, period in enumerate(periods):
            if j > learnt:
                continue
            if j >= len(row):
                share = 0.04 + 0.05 * rng.random()
            elif bad and j < len(row) - 1:
                share = 0.05 + 0.1 * rng.random()
            else:
                share = 0.93 - 0.012 * (len(row) - j) + 0.02 * rng.random() - (j % 3) * 0.03
            scores[str(v), period] = Cell(round(n * max(0.0, share)), n)
        if not bad:
            kind = "promoted"
            deployments.append(
                Deployment(versions[-1].created_at, kind, str(v), "gate", "accepted by the gate")
            )
            base = str(v)
    data = ReportData(
        workspace="support tickets",
        version=str(num_versions),
        made_at="2026-11-23T18:00:00+00:00",
        versions=tuple(versions),
        periods=periods,
        scores=scores,
        deployments=tuple(deployments),
        config={"training": {"epochs": 6}, "rehearsal": {"policy": "balanced", "fraction": 0.1}},
        config_digest="ab" * 32,
    )
    return with_update(data, rng)


def with_update(data: ReportData, rng: random.Random) -> ReportData:
    """`data` with all that the last version's update left: verdict, flips, rehearsal, curve."""
    subject = data.subject
    datasets = tuple(Dataset(p, f"{p}-3fa94c21", 1500, 750, 3, 12, 1) for p in subject.learnt)
    if subject.base is None:
        judged = decide([], Rule(), past=[], new=None, base=None)
        steps = (("ingest", 2.4), ("train", 61.0), ("evaluate", 7.7), ("gate", 0.1))
        return dataclasses.replace(
            data,
            judgement=judgement(judged, 0.02),
            datasets=datasets,
            step_seconds=steps,
            curve=curve(rng, penalty=False),
        )
    past = [p for p in subject.learnt if p not in data.subject.new]
    pairs = []
    for period in subject.learnt:
        before, after = data.scores[subject.base, period], data.scores[subject.id, period]
        lost = max(0, before.num_correct - after.num_correct) + 6
        won = after.num_correct - before.num_correct + lost
        both = before.num_correct - lost
        pairs.append(
            Paired(
                period,
                "past" if period in past else "new",
                "base",
                subject.base,
                750,
                both,
                lost,
                won,
                750 - both - lost - won,
            )
        )
    judged = decide(pairs, Rule(0.05), past=past, new=data.subject.new[0], base=subject.base)
    flips = tuple(
        PeriodFlips(
            p.period,
            750,
            p.reference_only,
            p.candidate_only,
            tuple(flip(p.period, k) for k in range(min(8, p.reference_only))),
            tuple(flip(p.period, k) for k in range(min(8, p.candidate_only))),
        )
        for p in pairs
    )
    windows = tuple(
        Window(p, f"{p}-3fa94c21", 1500, 1300 if i % 4 == 0 else 120 * i % 1300, 150 + i)
        for i, p in enumerate(past)
    )
    return dataclasses.replace(
        data,
        judgement=judgement(judged, 0.05),
        flips=flips,
        rehearsed=Rehearsed("balanced", sum(w.count for w in windows), windows),
        importance=Importance("empirical", 1256, "factored", 1_234_567, 123_456_700),
        searched=searched(),
        curve=curve(rng, penalty=True),
        step_seconds=(
            ("ingest", 2.44),
            ("rehearse", 0.03),
            ("importance", 6.1),
            ("train", 96.2),
            ("evaluate", 17.7),
            ("gate", 0.12),
            ("release", 3.9),
        ),
        datasets=datasets,
    )


def searched() -> Searched:
    tried = [
        Trial({"learning_rate": 1e-3, "rehearsal_fraction": 0.1}, 0.81, 0.84, 0.825),
        Trial({"learning_rate": 2.5e-2, "rehearsal_fraction": 0.32}, error="the loss <diverged>"),
        Trial({"learning_rate": 1e-2, "rehearsal_fraction": 0.02}, 0.9, 0.1, -0.22),
    ]
    plain = tuple(trial.as_dict() for trial in tried)
    return Searched(plain, plain[0], num_new=300, num_past=150, base_past=0.84)


def judgement(verdict, margin):
    plain = verdict.as_dict()
    return Judgement(
        plain["verdict"], tuple(plain["reasons"]), tuple(plain["comparisons"]), margin, 0.95
    )


def flip(period: str, k: int) -> Flip:
    return Flip(
        period,
        f"t-{period}-{k:05d}",
        f"My card was charged twice for order {k} and nobody answers.\nIntent:",
        " duplicate_charge",
        " duplicate_charge",
        " card_declined",
    )


def curve(rng: random.Random, *, penalty: bool):
    steps = range(10, 3000, 10)
    points = {"train/loss": tuple((s, 4 / (1 + s / 120) + 0.1 * rng.random()) for s in steps)}
    points["train/learning_rate"] = tuple((s, 1e-3) for s in steps)
    if penalty:
        points["train/loss_new"] = tuple((s, 5 / (1 + s / 90) + 0.1 * rng.random()) for s in steps)
        points["train/loss_rehearsed"] = tuple((s, 0.3 + 0.1 * rng.random()) for s in steps)
        points["train/penalty"] = tuple((s, 0.08 * (1 - 2.7 ** (-s / 500))) for s in steps)
    return points


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
    assert all(ref.startswith("#") for ref in structure.references)
    assert len(structure.ids) == len(set(structure.ids))
    named = {f"#{one}" for one in structure.ids}
    assert set(structure.references) <= named
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= named
    assert "@import" not in text
    assert len(text) < 1_500_000, name


def test_every_picture_is_well_formed_and_follows_the_page(case):
    name, text = case
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    shown = set(re.findall(r'aria-label="([^"]*)"', text))
    assert shown <= {picture.description for picture in figures.FIGURES.values()}
    assert len(shown) == len(svgs) == {"gaps": 4, "first_model": 4}.get(name, 6)
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
    assert {path.name for path in saved} == {f"{name}.png" for name in figures.FIGURES}
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
