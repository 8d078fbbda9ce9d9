"""On a GPU without the fused kernels one warning says what that costs; else nothing is said.

No GPU is needed: that there is one, and that the kernels are not, is all that is made up.
"""

import logging
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
