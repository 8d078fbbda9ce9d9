"""Benchmarks of models run, the GPU's at toy size: so that they are whole when one is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_torch_compile_is_measured_of_nanos_layers_on_a_gpu() -> None:
    """Which is not to be had here: every kind of layer, in Nano's own sizes."""
    code = (
        "import compiled as c\n"
        "from updater.nemotron import presets\n"
        "(shape,) = c.GPU_SHAPES\n"
        "nano = presets.config_fields('nemotron-3-nano', shape.vocabulary)\n"
        "changed = {k for k in nano if nano[k] != shape.fields[k]}\n"
        "print(sorted(changed), sorted(set(shape.fields['hybrid_override_pattern'])))\n"
        "print(c.lengths(shape), c.settings_of(shape, 'cuda').precision, c.lengths(c.SHAPES[0]))"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'bench'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == [
        "['hybrid_override_pattern', 'num_hidden_layers'] ['*', 'E', 'M']",
        "[128, 208, 256, 320, 512] bf16-mixed [16, 26, 32, 40, 64]",
    ], done.stderr


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
