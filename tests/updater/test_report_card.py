"""The model card: honest about what is not known, short where it must be, safe from names."""

import dataclasses
import re

import pytest

from store.pages import DESCRIPTION_CHARACTERS
from updater.cost import Cost
from updater.gate import Rule, decide
from updater.report import card
from updater.report.data import Cell, Dataset, Judgement, PeriodFlips, ReportData, Version


def version(id: str, base: str | None, learnt: tuple[str, ...], new: tuple[str, ...]) -> Version:
    return Version(
        id=id,
        kind="scratch" if base is None else "update",
        base=base,
        learnt=learnt,
        new=new,
        verdict="accepted",
        was_deployed=True,
        created_at="2026-05-03T09:12:44+00:00",
        update=f"u-{id}",
        digest="ab" * 32,
        run_id="r",
    )


def history(num_periods: int, names: str = "p{:03d}") -> ReportData:
    """Version 2 learnt the last period on top of version 1; the later, the better it answers."""
    periods = tuple(names.format(n) for n in range(num_periods))
    old = periods[:-1]
    scores = {("1", p): Cell(600 + n, 1000) for n, p in enumerate(old)}
    scores |= {("2", p): Cell(590 + n, 1000) for n, p in enumerate(periods)}
    plain = decide([], Rule(0.05), past=[], new=None, base=None).as_dict()
    return ReportData(
        workspace="support tickets",
        version="2",
        made_at="2026-05-03T10:00:00+00:00",
        versions=(version("1", None, old, old), version("2", "1", periods, periods[-1:])),
        periods=periods,
        scores=scores,
        judgement=Judgement("accepted", tuple(plain["reasons"]), (), 0.05, 0.95),
        flips=(PeriodFlips(periods[0], 1000, 7, 3),),
        datasets=tuple(Dataset(p, f"{p}@v1", 1500, 1000, 3, 2, 1) for p in periods),
        config={"training": {"epochs": 6, "adapt": "lora"}, "regularizer": {"method": "ewc"}},
        config_digest="cd" * 32,
        cost=Cost(4000.0, "GPU", 2.5, 7.2e6),
    )


def rows(text: str, heading: str) -> list[str]:
    """The rows of the table below the heading."""
    below = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in below.splitlines() if line.startswith("| ")][2:]


def test_scores_stand_with_interval_count_and_change() -> None:
    text = card.whole(history(4))
    assert rows(text, "Scores") == [
        "| p000 | 59.0 % | 55.9 to 62.0 | 1,000 | -1.0 points |",
        "| p001 | 59.1 % | 56.0 to 62.1 | 1,000 | -1.0 points |",
        "| p002 | 59.2 % | 56.1 to 62.2 | 1,000 | -1.0 points |",
        "| p003 (new) | 59.3 % | 56.2 to 62.3 | 1,000 | – |",
    ]
    assert "| p000 | `p000@v1` | 1,500 | 1,000 | 6 |" in rows(text, "Data")
    assert "The gate's verdict is **accepted**." in text
    assert "Fine-tuned from version 1 (lora weights): epochs 6." in text
    assert "7 answers that version 1 had right are wrong now, 3 the reverse" in text
    assert "worse by up to 5 points" in text


def test_cost_says_what_was_measured_and_what_was_not() -> None:
    data = history(3)
    text = card.whole(data)
    assert "* 2.50 GPU hours" in text
    assert "* Energy: 2.00 kWh, by the counters of the GPU boards during training alone" in text
    bare = card.whole(dataclasses.replace(data, cost=Cost(60.0, "CPU", 0.01)))
    assert "* 0 GPU hours: it computed on CPU, for 36 s." in bare
    assert "* Energy: not measured" in bare
    older = card.whole(dataclasses.replace(data, cost=Cost(60.0)))
    assert "not recorded by the release that made it" in older
    assert "GPU hours" not in older


def test_a_score_that_is_missing_is_a_limit() -> None:
    data = history(3)
    scores = {key: cell for key, cell in data.scores.items() if key != ("2", "p001")}
    text = card.whole(dataclasses.replace(data, scores=scores))
    assert "| p001 | not measured |  |  | – |" in rows(text, "Scores")
    assert "* Not measured on p001." in text
    assert "mean accuracy" not in text, "a mean over the others would be of something else"


def test_two_hundred_periods_fit_the_description_by_the_weakest_and_the_newest() -> None:
    data = history(200)
    text = card.brief(data, DESCRIPTION_CHARACTERS)
    assert len(text) <= DESCRIPTION_CHARACTERS
    told = rows(text, "Scores")
    assert told[0].startswith("| p000 | 59.0 %")
    assert told[-1].startswith("| p199 (new) ")
    assert f"{200 - len(told)} more periods are in `model_card.md`" in text
    assert "## Limits" in text
    assert "Energy" in text
    assert len(rows(card.whole(data), "Scores")) == 200


def test_names_of_any_length_never_break_the_room_there_is() -> None:
    text = card.brief(history(30, names="x" * 1500 + "{:03d}"), DESCRIPTION_CHARACTERS)
    assert len(text) <= DESCRIPTION_CHARACTERS


@pytest.mark.parametrize("name", ["a|b{}", "<img src=x>{}", "*bold*{}", "`x`{}", "[l](http://x){}"])
def test_a_period_s_name_is_never_read_as_markdown_or_html(name: str) -> None:
    text = card.whole(history(3, names=name))
    for row in rows(text, "Scores"):
        assert len(re.findall(r"(?<!\\)\|", row)) == 6
    shown = text.split("## Scores")[1]
    assert "<img" not in shown
    assert not re.search(r"(?<!\\)\*bold", shown)


def test_a_first_and_an_adopted_version_say_so() -> None:
    data = dataclasses.replace(history(3), version="1", flips=None, config={})
    assert "a first model, made from nothing" in card.whole(data)
    first = dataclasses.replace(data.versions[0], kind="adopt")
    adopted = card.whole(dataclasses.replace(data, versions=(first, data.versions[1])))
    assert "a checkpoint that was adopted" in adopted
    assert "Nothing was trained here" in adopted
    assert "change on version" not in adopted


def test_what_a_person_decided_is_named() -> None:
    data = history(3)
    assert data.judgement is not None
    judged = dataclasses.replace(data.judgement, decision=("approved", "ana", "looked at flips"))
    assert "it was approved by ana." in card.whole(dataclasses.replace(data, judgement=judged))
    assert "**not judged**" in card.whole(dataclasses.replace(data, judgement=None))
