"""`updater study` on arms that compress, as a user runs it, and again from the records alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from study_runs import of_tickets

SETTINGS = """
[regularizer]
num_examples = 16
[training]
epochs = 1
batch_size = 8
[scratch]
epochs = 1
"""
STUDY = """
[study]
name = "s"
seeds = [0, 1]
[stream]
first = ["2026-01..2026-02"]
[settings]
compression.num_examples = 16
[arms.uncompressed]
kind = "frozen"
[arms.pruned]
kind = "compress"
[arms.pruned.grid]
method = ["magnitude", "obd"]
sparsity = [0.5, 0.9]
[arms.fewer]
kind = "compress"
compression = { method = "reap", remove = "experts", sparsity = 0.25, recovery = "distill" }
[arms.anew]
kind = "compress"
control = "scratch"
compression = { method = "reap", remove = "experts", sparsity = 0.25 }
[arms.sparse]
kind = "compress"
control = "scratch"
compression = { method = "magnitude", sparsity = 0.9 }
[arms.quantized]
kind = "compress"
compression.quantize = "int8"
[[compare]]
arm = "fewer"
reference = "anew"
[quick]
arms = ["uncompressed", "obd 50 %"]
seeds = [0]
"""


def study(folder: Path, *options: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("updater")), "--json", "--quiet", "study"]
    command += [str(folder / "s.toml"), "--workspace", str(folder / "w"), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def sizes(folder: Path, arm: str) -> dict[str, Any]:
    """What the record of the arm with the first seed says of the model."""
    (record,) = (folder / "runs").glob(f"{arm}-0-*.json")
    found: dict[str, Any] = json.loads(record.read_text())["compressed"]
    return found


def test_a_study_of_compression_and_again_from_its_records(tmp_path: Path, tiny_json: str) -> None:
    of_tickets(tmp_path / "w", tiny_json, SETTINGS, ["2026-01", "2026-02"])
    (tmp_path / "s.toml").write_text(STUDY, "utf-8")
    found = study(tmp_path)
    assert list(found["arms"]) == [
        *("uncompressed", "magnitude 50 %", "magnitude 90 %", "obd 50 %", "obd 90 %"),
        *("fewer", "anew", "sparse", "quantized"),
    ]
    assert found["reference"] == "uncompressed"
    arms, told = found["arms"], found["compressions"]
    assert arms["fewer"]["num_parameters"] == arms["anew"]["num_parameters"]
    assert arms["fewer"]["bytes_ratio"][0] < 1
    size = {name: sizes(Path(found["folder"]), name) for name in ("sparse", "magnitude-90pc")}
    assert size["sparse"]["steps"] > size["magnitude-90pc"]["steps"] == 0
    # Of random weights none is zero, but for those that the compressed model has not.
    for what in ("num_parameters", "nonzero_fraction"):
        assert size["sparse"][what] == size["magnitude-90pc"][what]
    assert arms["quantized"]["speed_ratio"] == [None, None]
    assert None not in arms["obd 90 %"]["speed_ratio"]
    assert set(told["obd 90 %"]["periods"]) == {"2026-01", "2026-02"}
    report = Path(found["folder"]) / "report"
    pictures = {path.stem for path in report.glob("*.svg")}
    assert pictures == {"sparsity", "bytes", "compressed", "gone"}
    first = Path(found["folder"]) / "first"
    assert len(list(first.glob("*/fisher-*.safetensors"))) == 2  # one for each seed
    shutil.rmtree(first)
    shutil.rmtree(report)
    again = study(tmp_path)
    assert {**again, "folder": ""} == {**found, "folder": ""}
    assert not first.exists()
    assert list(study(tmp_path, "--quick")["arms"]) == ["uncompressed", "obd 50 %"]
    assert study(tmp_path, "--only", "obd 50 %")["arms"].keys() == {"obd 50 %"}
