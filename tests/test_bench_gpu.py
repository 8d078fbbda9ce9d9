"""`python bench/gpu.py --cpu`: the table at toy size, so that it is whole when a GPU is there."""

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
