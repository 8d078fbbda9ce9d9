"""On a GPU without the fused kernels one warning says what that costs; else nothing is said.

No GPU is needed: that there is one, and that the kernels are not, is all that is made up.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from updater.nemotron import checkpoint, kernels


@pytest.fixture(autouse=True)
def _said_nothing_yet() -> Iterator[None]:
    kernels.announce.cache_clear()
    yield
    kernels.announce.cache_clear()


def warned(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    *,
    gpu: bool,
    fused: bool,
) -> list[str]:
    """What is said when two models are loaded."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(kernels, "are_fused", lambda: fused)
    for _ in range(2):
        checkpoint.load(base, device="cpu")
    return [record.getMessage() for record in caplog.records]


def test_it_is_said_once_with_what_it_costs_and_what_helps(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    (said,) = warned(caplog, monkeypatch, base, gpu=True, fused=False)
    assert said.startswith("Mamba-2 layers run on PyTorch's operators: mamba-ssm and causal-conv1d")
    docs = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text("utf-8")
    for words in ("slower", "1.16 times as long", "H200", "more memory for activations"):
        assert words in said
        assert words in " ".join(docs.split())
    assert said.endswith("docs/gpu.md tells how to build them")


@pytest.mark.parametrize(("gpu", "fused"), [(True, True), (False, False)])
def test_else_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    gpu: bool,
    fused: bool,
) -> None:
    assert warned(caplog, monkeypatch, base, gpu=gpu, fused=fused) == []


PACKAGES = {
    "causal_conv1d/__init__.py": ("causal_conv1d_fn", "causal_conv1d_update"),
    "mamba_ssm/__init__.py": (),
    "mamba_ssm/ops/__init__.py": (),
    "mamba_ssm/ops/triton/__init__.py": (),
    "mamba_ssm/ops/triton/ssd_combined.py": (
        "mamba_chunk_scan_combined",
        "mamba_split_conv1d_scan_combined",
    ),
    "mamba_ssm/ops/triton/selective_state_update.py": ("selective_state_update",),
}
ASKED = """
import sys, torch, updater
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_OnGpusAlone"]
from transformers.models.nemotron_h import modeling_nemotron_h as transformers
from updater.nemotron import kernels, packing
from updater.errors import InputError
torch.cuda.is_available = lambda: True
told = set()
for name in kernels.FUNCTIONS:
    names = {
        "mamba_split_conv1d_scan_combined": "mamba2_split_conv1d_scan_combined",
        "mamba_chunk_scan_combined": "mamba2_chunk_scan",
        "selective_state_update": "mamba2_selective_state_update",
    }
    try:
        getattr(transformers, names.get(name, name))(seq_idx=1)
        told.add(name)
    except ValueError as error:
        assert "can't keep packed sequences apart" in str(error)
print(kernels.taken() == told, len(told), kernels.are_fused())
try:
    packing.check()
except InputError:
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", "True 5 True"),
        ("mamba_ssm/ops/triton/ssd_combined.py", "True 3 False\nrefused"),
        ("mamba_ssm/ops/triton/selective_state_update.py", "True 4 False\nrefused"),
    ],
)
def test_fused_is_what_transformers_takes(tmp_path: Path, broken: str, said: str) -> None:
    """The packages are made up, a module of them does not load, and a GPU is made up."""
    for file, functions in PACKAGES.items():
        code = "".join(f"def {name}(*_, **__):\n    pass\n" for name in functions)
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise OSError('undefined symbol')" if file == broken else code)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == said, done.stderr
