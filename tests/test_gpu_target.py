"""`make test-gpu` fails where it could only skip, and lets mamba-ssm's one known warning pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest by the project's settings and its conftest, of a test with this code."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    (tmp_path / "test_it.py").write_text(f"import warnings, torch\ndef test():\n    {code}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
    )


def test_where_it_is_asked_for_a_gpu_has_to_be_there(tmp_path: Path) -> None:
    done = run(tmp_path, "pass", UPDATER_TEST_GPU="1")
    assert done.returncode == 4
    assert "torch sees no GPU" in done.stderr
    target = (ROOT / "Makefile").read_text("utf-8").partition("\ntest-gpu:")[2]
    assert "UPDATER_TEST_GPU=1 $(BIN)/pytest" in target.partition("\n\n")[0]


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("torch.get_autocast_gpu_dtype()", 0),  # as mamba-ssm 2.3.2 calls it
        ("torch.get_autocast_cpu_dtype()", 1),
    ],
)
def test_that_one_call_may_be_deprecated(tmp_path: Path, code: str, ends: int) -> None:
    done = run(tmp_path, code)
    assert done.returncode == ends, done.stdout
