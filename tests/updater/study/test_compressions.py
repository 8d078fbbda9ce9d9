"""What is told of compressed models: against the uncompressed one, in all and by period."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from updater.settings import CompressionSettings
from updater.study.compressions import compressions, first_size
from updater.study.report import heat
from updater.study.report.compression_report import periods, sizes
from updater.study.report.exports import answer
from updater.study.report.outputs import write
from updater.study.results import Compressed, Run, Stage
from updater.study.tabulated import Table, tabulate
from updater.study.ways import Way

Make = Callable[..., Table]


@pytest.mark.parametrize(
    ("settings", "control", "name", "group"),
    [
        ({"method": "obd"}, "none", "obd 50 %", "weights"),
        ({"method": "obd", "sparsity": 0.125}, "none", "obd 12.5 %", "weights"),
        ({"method": "wanda", "pattern": "2:4"}, "none", "wanda 2:4", "weights"),
        (
            {"method": "obd", "recovery": "finetune", "quantize": "int8"},
            "none",
            "obd 50 % + finetune + int8",
            "weights",
        ),
        (
            {"method": "reap", "remove": "experts", "sparsity": 0.25},
            "none",
            "reap experts 25 %",
            "experts",
        ),
        ({"quantize": "nvfp4"}, "none", "nvfp4", "quantized"),
        ({"method": "obd", "remove": "heads"}, "scratch", "scratch heads 50 %", "from scratch"),
        ({"method": "obd"}, "scratch", "scratch obd 50 %", "from scratch"),
    ],
)
def test_a_way_is_called_by_what_it_does(
    settings: dict[str, str], control: str, name: str, group: str
) -> None:
    way = Way(CompressionSettings(**settings), control)
    assert (way.name, way.group) == (name, group)


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"method": "obd"}, False),  # the Fisher is in a file
        ({"method": "obd", "rounds": 2}, True),
        ({"method": "obd_sd"}, True),
        ({"method": "wanda"}, True),
        ({"method": "magnitude"}, False),
        ({"quantize": "int8"}, False),
        ({"quantize": "fp8"}, True),
    ],
)
def test_what_a_way_has_to_be_shown(settings: dict[str, str], needs: bool) -> None:
    assert Way(CompressionSettings(**settings)).needs_examples is needs


def test_by_hand_the_change_and_the_period_that_pays_most() -> None:
    def run(arm: str, seed: int, a: int, b: int) -> Run:
        return Run(arm, seed, ("a", "b"), (Stage("b", {"a": (a, 100), "b": (b, 100)}),))

    runs = [run("whole", 0, 80, 90), run("whole", 1, 82, 94)]
    runs += [run("obd", 0, 79, 80), run("obd", 1, 80, 86)]
    ways = {"obd": Way(CompressionSettings(method="obd"))}
    (told,) = compressions(tabulate(runs, "whole", ways=ways, uncompressed="whole"))
    assert told.change is not None
    assert told.change.estimate.mean == pytest.approx(-0.0525)  # -0.055 and -0.05
    assert {p: one.mean for p, one in told.periods.items()} == pytest.approx(
        {"a": 0.795, "b": 0.83}
    )
    assert told.worst is not None
    period, change = told.worst
    assert (period, change.mean) == ("b", pytest.approx(-0.09))


def test_without_an_uncompressed_model_nothing_is_told(make_compressed: Make) -> None:
    table = make_compressed()
    others = [run for arm in table.arms if arm.name != "uncompressed" for run in arm.runs]
    bare = tabulate(others, ways=table.ways, uncompressed="uncompressed")
    assert compressions(bare) == []
    assert (sizes(bare), periods(bare)) == (None, None)


def test_an_arm_of_which_no_seed_finished_is_left_out(make_compressed: Make) -> None:
    table = make_compressed()
    failed = Run("obd 50 %", 9, (), (), failure="it diverged")
    runs = [r for arm in table.arms if arm.name != "obd 50 %" for r in arm.runs]
    told = compressions(tabulate([*runs, failed], ways=table.ways, uncompressed="uncompressed"))
    assert "obd 50 %" not in {one.arm.name for one in told}
    assert len(told) == len(table.ways) - 1


def test_the_first_models_size_is_in_the_compressed_ones_records(make_compressed: Make) -> None:
    assert first_size(make_compressed()) == Compressed(1000, 1000, 1.0, 2**20, 2**20)


def test_the_table_has_costs_and_savings_beside_the_uncompressed_model(
    make_compressed: Make,
) -> None:
    sheet = sizes(make_compressed())
    assert sheet is not None
    rows = {row[0]: dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows}
    assert next(iter(rows)) == "uncompressed"
    assert rows["uncompressed"]["bytes, times"] == rows["uncompressed"]["speed, times"] == "1.00"
    assert rows["magnitude 90 %"]["worst period"].startswith("home −")
    assert rows["magnitude 90 %"]["final accuracy is"] == "worse"
    assert rows["magnitude 90 %"]["not zero, %"] == "10.0"
    assert rows["obd neurons 30 %"]["parameters"] == "800"
    assert rows["obd neurons 30 %"]["speed, times"] == "1.25"
    assert (rows["int4"]["bytes, times"], rows["int4"]["speed, times"]) == ("0.50", "–")


def test_each_period_has_its_change(make_compressed: Make) -> None:
    sheet = periods(make_compressed())
    assert sheet is not None
    assert "home" in sheet.columns
    rows = {row[0]: dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows}
    assert "(−" in rows["obd 90 %"]["home"]
    assert "(" not in rows["uncompressed"]["home"]


def test_pictures_and_files_of_a_study_that_compresses(
    make_compressed: Make, tmp_path: Path
) -> None:
    table = make_compressed()
    write(table, tmp_path, title="Smaller")
    assert {path.stem for path in tmp_path.glob("*.svg")} == {
        *("sparsity", "bytes", "compressed", "gone")
    }
    text = (tmp_path / "sparsity.svg").read_text()
    assert "as it is" in text
    assert "after finetune" in text
    assert "neurons" not in text, "one share makes no line"
    rows = list(csv.DictReader((tmp_path / "compressions.csv").read_text().splitlines()))
    assert len(rows) == len(table.ways) * 6
    one = next(
        row for row in rows if (row["arm"], row["period"]) == ("obd 90 % + finetune", "home")
    )
    assert (one["method"], one["remove"], one["sparsity"]) == ("obd", "weights", "0.9")
    assert float(one["change_low"]) < float(one["change"]) < float(one["change_high"]) < 0
    quantized = next(row for row in rows if row["arm"] == "int4")
    assert (quantized["method"], quantized["sparsity"], quantized["quantize"]) == ("", "", "int4")
    page = (tmp_path / "study.md").read_text()
    assert "## What compression costs and saves" in page
    assert "## Against uncompressed" not in page
    assert "6 periods learnt first; 95 % confidence" in page


def test_a_line_has_one_name_in_all_panels_and_tells_what_it_differs_in(
    make_compressed: Make, tmp_path: Path
) -> None:
    undamped = {
        f"obd {share:.0%}, damping 0.0": Way(
            CompressionSettings(method="obd", sparsity=share, damping=0.0)
        )
        for share in (0.5, 0.9)
    }
    write(make_compressed(more=undamped), tmp_path, title="Smaller")
    text = (tmp_path / "sparsity.svg").read_text()
    names = Counter(re.findall(r">((?:obd|magnitude)[^<]*)<", text))
    assert names == {"obd": 2, "obd, damping 0": 1, "magnitude": 1}


def test_which_experts_and_layers_went_is_counted_over_the_seeds(make_compressed: Make) -> None:
    figure = heat.gone(make_compressed(4))
    assert figure is not None
    (axes,) = figure.axes
    parts = [label.get_text() for label in axes.get_xticklabels()]
    assert parts == [
        *("layer 0", "layer 1", "layer 1, expert 2"),
        *(f"layer 3, expert {seed}" for seed in range(4)),
    ]
    told = [text.get_text() for text in axes.texts]
    assert told == [*"––", "100.0", *["25.0"] * 4, "50.0", "50.0", *"–––––"]


def test_the_answer_tells_what_each_period_pays(make_compressed: Make) -> None:
    found = json.loads(json.dumps(answer(make_compressed())))["compressions"]
    assert found["magnitude 90 %"]["worst_period"] == "home"
    assert found["magnitude 90 %"]["periods"]["home"]["change"]["mean"] < -0.5
    assert found["scratch neurons 30 %"]["control"] == "scratch"
    assert answer(make_compressed())["arms"]["obd neurons 30 %"]["speed_ratio"] == [1.25] * 3


def test_one_seed_shows_no_interval_and_is_drawn(make_compressed: Make, tmp_path: Path) -> None:
    write(make_compressed(1), tmp_path, title="Smaller")
    assert (tmp_path / "bytes.svg").exists()
    assert "±" not in (tmp_path / "study.md").read_text().partition("## Compressed, period")[0]


@pytest.mark.parametrize(
    ("key", "value"), [("num_bytes", -1), ("speed", 1), ("nonzero_fraction", "1"), ("steps", 1.5)]
)
def test_a_record_with_a_broken_size_is_no_run(
    make_compressed: Make, key: str, value: object
) -> None:
    run = next(run for arm in make_compressed().arms for run in arm.runs if run.compressed)
    plain = json.loads(run.to_json())
    assert Run.from_json(json.dumps(plain)) == run
    plain["compressed"][key] = value
    with pytest.raises(ValueError, match="not a study's run"):
        Run.from_json(json.dumps(plain))
