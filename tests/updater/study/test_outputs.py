"""What `write` leaves in a folder: whole, the same each time, safe to show, true of odd studies."""

import csv
import dataclasses
import html
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from updater.study.ratios import ratios
from updater.study.report.exports import answer
from updater.study.report.outputs import write
from updater.study.results import Run, Stage
from updater.study.tabulated import tabulate

Make = Callable[..., list[Run]]
PICTURES = {"stream", "cost", "forgetting", "ratio"}
HOSTILE = "<script>alert(1)</script> | *b* `c`"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_has_the_pages_the_tables_and_every_picture(
    make_study: Make, tmp_path: Path
) -> None:
    table = tabulate(make_study(3), scratch="scratch")
    answer = write(table, tmp_path / "new" / "study", title="Tickets")
    assert names(tmp_path / "new" / "study") == {
        *("study.html", "study.md", "study.json", "arms.csv", "runs.csv", "ratios.csv"),
        *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")),
    }
    kept = json.loads((tmp_path / "new" / "study" / "study.json").read_text())
    assert kept["arms"].keys() == answer["arms"].keys()
    assert set(kept["ratios"]) == {"accuracy", "steps", "seconds"}


def test_written_again_every_file_has_the_same_bytes(make_study: Make, tmp_path: Path) -> None:
    for name in ("one", "two"):
        table = tabulate(make_study(2), scratch="scratch")
        write(table, tmp_path / name, title="Tickets")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_page_asks_for_nothing_from_outside(make_study: Make, tmp_path: Path) -> None:
    write(tabulate(make_study(2)), tmp_path, title="Tickets")
    page = (tmp_path / "study.html").read_text()
    assert "<script" not in page
    outside = set(re.findall(r"https?://[^\"' )]+", page))
    assert all(url.startswith("http://www.w3.org/") for url in outside), outside


def test_names_and_reasons_are_text_never_markup(make_arm: Make, tmp_path: Path) -> None:
    first = make_arm("rehearsal", 0.9, seeds=2)
    bad = [Run(HOSTILE, 0, first[0].learnt_first, first[0].stages[:2], failure=HOSTILE)]
    write(tabulate([*first, *bad]), tmp_path, title=HOSTILE)
    assert "<script>" not in (tmp_path / "study.html").read_text()
    text = (tmp_path / "study.md").read_text()
    assert "<script>" not in text.replace("\\<script\\>", "")
    for line in text.splitlines():
        if line.startswith("| \\<script"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 12


def test_an_arm_that_diverged_has_its_row_and_its_reason(make_study: Make, tmp_path: Path) -> None:
    write(tabulate(make_study(2)), tmp_path, title="Tickets")
    for name in ("study.html", "study.md"):
        text = (tmp_path / name).read_text()
        assert "1 of 2" in text
        assert "si, seed 1, stopped: diverged: the loss is not finite" in text


def test_which_run_stopped_stands_at_the_top(make_study: Make, tmp_path: Path) -> None:
    write(tabulate(make_study(2)), tmp_path, title="Tickets")
    for name in ("study.html", "study.md"):
        top, _, rest = (tmp_path / name).read_text().partition("What holds")
        assert "7 arms, 2 seeds, 1 run stopped before the end; 2 periods" in top
        assert "si, seed 1, stopped: diverged: the loss is not finite" in top
        assert rest


@pytest.mark.parametrize("kind", ["study", "alone", "replay"])
def test_the_page_and_the_markdown_have_the_same_words(
    kind: str, make_study: Make, make_replay: Make, make_arm: Make, tmp_path: Path
) -> None:
    made = {"study": make_study, "replay": make_replay, "alone": partial(make_arm, "a", 0.9)}
    write(tabulate(made[kind](seeds=2)), tmp_path, title="Tickets")
    page, text = ((tmp_path / name).read_text() for name in ("study.html", "study.md"))
    parts = re.findall(r"<(p|li|h1|h2|h3)\b[^>]*>(.*?)</\1>", page, flags=re.DOTALL)
    of_page = {" ".join(html.unescape(part).split()).rstrip(".") for _, part in parts}
    lines = (line for line in text.splitlines() if line and not line.startswith(("|", "!")))
    of_text = {line.replace("\\", "").lstrip("#* ").rstrip(".") for line in lines}
    # The page alone has a heading over what stands at its end.
    assert of_page - {"Notes"} == of_text - {re.findall(r'class="eyebrow">(.*)<', page)[1]}


def test_a_study_of_which_nothing_finished_is_still_told(tmp_path: Path) -> None:
    stage = Stage("a", {"a": (1, 2)})
    write(tabulate([Run("bad", 0, ("a",), (stage,), failure="killed")]), tmp_path, title="Tickets")
    assert "none finished" in (tmp_path / "study.md").read_text()
    assert not list(tmp_path.glob("*.svg"))


def test_an_arm_that_never_began_is_told_as_well(make_arm: Make, tmp_path: Path) -> None:
    good = make_arm("rehearsal", 0.9, seeds=2)
    never = Run("ewc", 0, good[0].learnt_first, (), failure="every value of its sweep diverged")
    write(tabulate([*good, never]), tmp_path, title="Tickets")
    assert "ewc, seed 0, stopped: every value" in (tmp_path / "study.md").read_text()


def test_one_seed_has_no_interval_and_makes_no_claim(make_study: Make, tmp_path: Path) -> None:
    write(tabulate([r for r in make_study(1) if not r.failure]), tmp_path, title="Tickets")
    text = (tmp_path / "study.md").read_text()
    assert "One seed: there is no interval" in text
    assert text.count("nothing is claimed") == 1
    assert "Bands" not in text
    assert "Bars" not in text
    assert "±" not in text.partition("## Accuracy")[0]


def test_a_stream_without_an_update_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    stage = Stage("a", {"a": (1, 2), "b": (1, 4)})
    write(tabulate([Run("arm", s, ("a",), (stage,)) for s in (0, 1)]), tmp_path, title="Tickets")
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"stream", "cost"}


def test_a_replay_shows_verdicts_and_what_users_had(make_replay: Make, tmp_path: Path) -> None:
    write(tabulate(make_replay()), tmp_path, title="Tickets")
    assert (tmp_path / "as_deployed.svg").exists()
    assert not (tmp_path / "stream.svg").exists(), "the same lines, without the verdicts"
    found = json.loads((tmp_path / "study.json").read_text())["replays"]["rehearsal"]["1"]
    assert (found["num_accepted"], found["num_review"], found["num_rejected"]) == (1, 1, 2)
    assert "| the update of travel |" in (tmp_path / "study.md").read_text()
    assert len(found["had"]) == 5
    assert "what the gate would have done" in (tmp_path / "study.html").read_text()


def test_no_picture_of_another_study_stays(
    make_replay: Make, make_study: Make, tmp_path: Path
) -> None:
    write(tabulate(make_replay()), tmp_path, title="Tickets")
    write(tabulate(make_study(2), scratch="scratch"), tmp_path, title="Tickets")
    assert {path.stem for path in tmp_path.glob("*.svg")} == PICTURES


def test_frozen_is_drawn_beside_what_was_judged(
    make_replay: Make, make_arm: Make, tmp_path: Path
) -> None:
    write(tabulate([*make_replay(), *make_arm("frozen", 1.0, seeds=2)]), tmp_path, title="Tickets")
    assert "frozen" in (tmp_path / "as_deployed.svg").read_text()
    assert json.loads((tmp_path / "study.json").read_text())["replays"]["frozen"] == {}


def test_beside_each_picture_the_pages_say_which_arms_it_lacks(
    make_arm: Make, tmp_path: Path
) -> None:
    runs = [run for n in range(15) for run in make_arm(f"arm{n:02d}", 0.5 + n / 50, seeds=2)]
    write(tabulate(runs, "arm00"), tmp_path, title="Tickets")
    parts = (tmp_path / "study.md").read_text().split("\n## ")
    for heading in ("Accuracy over the stream", "Accuracy against cost"):
        (part,) = [part for part in parts if part.startswith(f"{heading}\n")]
        how, link = part.split("\n\n")[1:3]
        assert "Not drawn, of 15 arms, but in the tables: arm" in how
        assert link.startswith("![")
    for page in ("study.html", "study.md"):
        assert (tmp_path / page).read_text().count("Not drawn, of 15 arms") == 2


def test_the_csv_has_means_bounds_and_claims(make_study: Make, tmp_path: Path) -> None:
    write(tabulate(make_study(3)), tmp_path, title="Tickets")
    rows = list(csv.DictReader((tmp_path / "arms.csv").read_text().splitlines()))
    row = next(r for r in rows if (r["arm"], r["measure"]) == ("ewc", "final_average_accuracy"))
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert row["claim"] == "worse"
    own = next(r for r in rows if (r["arm"], r["measure"]) == ("rehearsal", "steps"))
    assert (own["difference"], own["claim"]) == ("", "")


def test_without_a_spread_the_csv_has_neither_p_nor_interval(
    make_study: Make, tmp_path: Path
) -> None:
    """Every seed takes the same number of steps: a fact, which no test can make surer."""
    write(tabulate(make_study(3)), tmp_path, title="Tickets")
    rows = list(csv.DictReader((tmp_path / "arms.csv").read_text().splitlines()))
    row = next(r for r in rows if (r["arm"], r["measure"]) == ("ewc", "steps"))
    assert (row["mean"], row["difference"], row["claim"]) == ("368.0", "-152.0", "better")
    empty = ("low", "high", "difference_low", "difference_high", "p_value", "adjusted_p")
    assert [row[name] for name in empty] == [""] * 6


def test_the_csv_has_each_update_as_a_part_of_scratch(make_study: Make, tmp_path: Path) -> None:
    table = tabulate(make_study(3), scratch="scratch")
    write(table, tmp_path, title="Tickets")
    rows = list(csv.DictReader((tmp_path / "ratios.csv").read_text().splitlines()))
    assert "scratch" not in {row["arm"] for row in rows}
    for row in rows:
        expected = ratios(table)[row["measure"]][row["arm"]][int(row["past_periods"])]
        assert float(row["mean"]) == expected.mean
        assert int(row["num_seeds"]) == expected.num_seeds > 0
    counted = sum(len(curve) for curves in ratios(table).values() for curve in curves.values())
    assert len(rows) == counted > 0


def test_what_a_sweep_chose_is_said(make_arm: Make, tmp_path: Path) -> None:
    (one,) = make_arm("ewc", 0.8, seeds=1)
    swept = Run("ewc", 0, one.learnt_first, one.stages, choice={"regularizer.strength": 100.0})
    write(tabulate([swept]), tmp_path, title="Tickets")
    assert "ewc: regularizer.strength = 100.0" in (tmp_path / "study.html").read_text()


def test_a_folder_that_can_not_be_made_is_an_error(make_arm: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(tabulate(make_arm("one", 0.9, seeds=1)), tmp_path / "file" / "below", title="Tickets")


def test_the_answer_is_the_tables(make_study: Make, tmp_path: Path) -> None:
    table = tabulate(make_study(2))
    assert write(table, tmp_path, title="Tickets") == answer(table)


def test_what_importance_takes_has_its_column_where_it_was_measured(
    make_arm: Make, tmp_path: Path
) -> None:
    old, new = make_arm("old", 0.9, seeds=2), make_arm("ewc", 0.9, seeds=2)
    write(tabulate(old), tmp_path, title="Tickets")
    assert "importance" not in (tmp_path / "study.md").read_text()
    measured = [
        dataclasses.replace(
            run,
            stages=tuple(
                dataclasses.replace(stage, importance_bytes=i * 2**20 // 4)
                for i, stage in enumerate(run.stages)
            ),
        )
        for run in new
    ]
    write(tabulate([*old, *measured]), tmp_path, title="Tickets")
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (tmp_path / "study.md").read_text().partition("## Against")[0].splitlines()
        if line.startswith("|")
    ]
    column = head.index("importance, MiB")
    shown = {row[0]: row[column] for row in rows}
    assert shown == {"old": "–", "ewc": "1.00"}  # the most that any of four updates took


def test_arms_that_never_differ_are_not_told_apart(make_arm: Make, tmp_path: Path) -> None:
    runs = make_arm("rehearsal", 0.9, seeds=3)
    twins = [dataclasses.replace(run, arm="twin") for run in runs]
    write(tabulate([*runs, *twins]), tmp_path, title="Tickets")
    text = (tmp_path / "study.md").read_text()
    assert "twin: +0.0 points to rehearsal with each of 3 seeds, which leaves no spread" in text
    assert "One seed" not in text
