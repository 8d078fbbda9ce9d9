"""Where the fused kernels are installed and there is no GPU, models run all the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from devices import logits, on_cpu

FUNCTIONS = {
    "mamba_ssm": (
        "selective_state_update",
        "mamba_chunk_scan_combined",
        "mamba_split_conv1d_scan_combined",
    ),
    "causal_conv1d": ("causal_conv1d_fn", "causal_conv1d_update"),
}
FORWARD = """
import torch
from updater.nemotron import checkpoint, presets
fields = presets.config_fields("nemotron-3-tiny", 300)
model = checkpoint.random(fields, device="cpu", dtype=torch.float32)
print(bool(model(torch.arange(8)[None]).logits.isfinite().all()))
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A folder with packages by the kernels' names, which fail as theirs do without a GPU."""
    for package, functions in FUNCTIONS.items():
        code = "".join(
            f"def {name}(*_, **__):\n    raise RuntimeError('no GPU')\n" for name in functions
        )
        (tmp_path / f"{package}.py").write_text(code)
    return tmp_path


def ended(code: str, kernels: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(kernels)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_a_model_runs_on_a_cpu_beside_the_kernels(kernels: Path) -> None:
    done = ended(FORWARD, kernels)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
    assert "falling back" not in done.stderr


def test_so_the_tests_of_a_gpu_have_the_cpus_side(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = np.arange(8)[None]
    expected = logits("nemotron-3-tiny", tokens, "cpu")
    monkeypatch.setenv("PYTHONPATH", str(kernels))
    assert np.array_equal(on_cpu(logits, "nemotron-3-tiny", tokens, "cpu"), expected)


def test_without_the_guard_it_would_not(kernels: Path) -> None:
    unguarded = "import updater, sys\nsys.meta_path[:] = [f for f in sys.meta_path if type(f)."
    done = ended(unguarded + "__name__ != '_OnGpusAlone']\n" + FORWARD, kernels)
    assert "RuntimeError: no GPU" in done.stderr


def test_the_guard_imports_nothing_and_stands_once(kernels: Path) -> None:
    code = (
        "import sys, updater, importlib.util\n"
        "updater.kernels_guard.install()\n"
        "names = [type(finder).__name__ for finder in sys.meta_path]\n"
        "print(names.count('_OnGpusAlone'), 'torch' in sys.modules)\n"
        "print(importlib.util.find_spec('mamba_ssm') is not None)\n"
        "try:\n    import mamba_ssm\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = ended(code, kernels)
    assert done.stdout.splitlines() == [
        "1 False",
        "True",
        "mamba_ssm needs a GPU, and torch sees none",
    ]
