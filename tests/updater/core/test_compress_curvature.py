"""OBD is shown what the loss depends on, whatever EWC has made of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regularizers import formats, importance
from regularizers.importance import Importance, normalise_by_evidence
from updater.compress import curvature
from updater.compress.curvature import Curvature
from updater.nemotron import checkpoint
from updater.nemotron.weights import is_experts, released_name
from updater.train.encode import encode
from updater.train.importance import estimate, spread

UP = "model.layers.1.mixer.experts.up_proj"


def estimated(tensors: dict[str, torch.Tensor]) -> Importance:
    return Importance(tensors, "empirical", 4, "c", "d")


@pytest.mark.parametrize("form", ["float32", "bfloat16", "factored"])
def test_what_makes_experts_comparable_is_taken_back(form: str, tmp_path: Path) -> None:
    """Nine of ten tokens came to the first expert, and none to the third."""
    fisher = torch.tensor([9.0, 1.0, 0.0])[:, None, None].expand(3, 2, 2).contiguous()
    counts = {UP: torch.tensor([90, 10, 0])}
    fair = normalise_by_evidence(estimated({UP: fisher}), counts).in_format(form)
    importance.save(fair, tmp_path / "i.safetensors")
    again = importance.load(tmp_path / "i.safetensors")
    assert again.tokens == {UP: [90, 10, 0]}
    found = Curvature(again.tensors, again.tokens)
    for expert, value in enumerate((9.0, 1.0, 0.0)):
        torch.testing.assert_close(
            found[released_name(UP, expert)], torch.full((2, 2), value), rtol=0.01, atol=0
        )


def test_it_is_the_mean_of_the_spread_of_the_same_examples(trained: Path, language: Any) -> None:
    """OBD and OBD-SD differ by the deviation, and by nothing else."""
    model, tokenizer = checkpoint.load(trained)
    checkpoint.freeze_routers(model)
    examples = encode(tokenizer, language(0, 12), max_length_tokens=64)
    known = estimate(
        model, examples, estimator="empirical", checkpoint_digest="", data_digest="", progress=False
    )
    moments = spread(model, examples, progress=False)
    found = Curvature(known.tensors, known.tokens)
    means = Curvature({name: one.mean for name, one in moments.items()})
    for name, tensor in known.tensors.items():
        for expert in range(tensor.shape[0] if is_experts(name) else 1):
            torch.testing.assert_close(
                found[released_name(name, expert)],
                means[released_name(name, expert)],
                rtol=1e-4,
                atol=1e-12,
            )


@pytest.mark.parametrize("form", ["bfloat16", "factored"])
def test_of_a_stack_of_experts_one_is_made_whole(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Nano's a stack is 2.5 GB, and its 128 experts are asked for one by one."""
    stack = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    sizes = []

    def watched(weight: Any) -> torch.Tensor:
        sizes.append(tuple(weight.shape))
        return formats.whole(weight)

    monkeypatch.setattr(curvature, "whole", watched)
    kept = formats.keep(stack, form)
    found = Curvature({UP: kept})
    for expert in (3, 0):
        wanted = formats.whole(kept)[expert]
        assert torch.equal(found[released_name(UP, expert)], wanted)
    assert sizes == [(3, 4)] * 2
