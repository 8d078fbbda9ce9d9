"""Benchmarks of models run, the GPU's at toy size: so that they are whole when one is there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpus_table_is_printed_at_toy_size() -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for row in ("| EWC, factored, rehearsal |", "| empirical |", "| sampled |", "Trainer"):
        assert row in done.stdout, row


@pytest.mark.slow
@pytest.mark.usefixtures("postgres_url")
@pytest.mark.parametrize(("target", "code"), [("60", 0), ("0.01", 1)])
def test_a_target_that_is_missed_fails_the_bench_of_scale(target: str, code: int) -> None:
    size = ("--periods", "4", "--versions", "20", "--events", "200", "--report-periods", "0")
    command = [sys.executable, str(ROOT / "bench" / "scale.py"), *size, "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stderr
    for row in ("| `status` |", "| `rollback --reason bench` |", "| `history --json` |"):
        assert row in done.stdout, row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "row"),
    [
        (("memory.py",), "| 131,072 |"),
        (("dag_parse.py",), "| 20 | yes | 140 |"),
        (("scan.py", "--rounds", "2"), "| 256 |"),
        (("smaller.py", "--rounds", "1"), "| each of the four |"),
    ],
)
def test_the_other_tables_are_printed(words: tuple[str, ...], row: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert row in done.stdout
