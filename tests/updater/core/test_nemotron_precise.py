"""Under bfloat16 autocast routers and scans compute in float32, in training too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from heads import with_head
from torch import nn
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

from updater.nemotron import checkpoint, mtp
from updater.settings import TrainingSettings
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch


def routers(model: nn.Module) -> list[NemotronHTopkRouter]:
    return [m for m in model.modules() if isinstance(m, NemotronHTopkRouter)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_goes_to_the_same_experts_as_without_autocast(
    base: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Of the backbone's routers, and the drafting head's."""
    headed = with_head(base, tmp_path / "headed")
    model, _ = checkpoint.load(headed, dtype=dtype)
    mtp.attach(headed, model)
    found = routers(model)
    assert len(found) == 3
    for router in found:
        tokens_td = torch.randn(4096, router.hidden_dim, dtype=dtype)
        expected = router(tokens_td)
        with torch.autocast("cpu", torch.bfloat16):
            routed = router(tokens_td)
            elsewhere = NemotronHTopkRouter.forward(router, tokens_td)
        assert [part.dtype for part in routed] == [torch.float32, torch.float32, torch.int64]
        assert all(torch.equal(*both) for both in zip(routed, expected, strict=True))
        others = elsewhere[2].sort(-1)[0] != expected[2].sort(-1)[0]
        assert others.any(-1).float().mean() > 0.001, "transformers' own would do"


@contextmanager
def noted(model: nn.Module) -> Iterator[list[torch.dtype]]:
    """The dtypes of what routers, and the parts of Mamba-2 layers that scan, give out."""
    dtypes: list[torch.dtype] = []
    handles = [
        router.register_forward_hook(
            lambda _router, _given, out: dtypes.extend(part.dtype for part in out[:2])
        )
        for router in routers(model)
    ]
    scan = modeling_nemotron_h.mamba2_chunk_scan

    def spied(*given: Any, **more: Any) -> Any:
        y = scan(*given, **more)
        dtypes.append(y.dtype)
        assert given[1].dtype == torch.bfloat16, "the projection before it is not under autocast"
        return y

    modeling_nemotron_h.mamba2_chunk_scan = spied
    try:
        yield dtypes
    finally:
        modeling_nemotron_h.mamba2_chunk_scan = scan
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"train_routers": True}, torch.float32),
        ({"activation_checkpointing": True}, torch.float32),
        ({"adapt": "lora"}, torch.bfloat16),
        (
            {"adapt": "lora", "lora_experts": True, "activation_checkpointing": True},
            torch.bfloat16,
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_a_training_in_mixed_precision_routes_and_scans_in_float32(
    base: Path, language: Any, tmp_path: Path, changes: dict[str, Any], weights: torch.dtype
) -> None:
    """What activation checkpointing computes again, too; and it learns."""
    training = TrainingSettings(
        epochs=2, batch_size=8, learning_rate=1e-2, precision="bf16-mixed", **changes
    )
    model, tokenizer = checkpoint.load(base, dtype=weights)
    with noted(model) as dtypes:
        done = fit(
            model,
            Lesson.of(tokenizer, language(0, 64), None, max_length_tokens=64),
            training=training,
            guards=Guards(),
            folder=tmp_path,
            watch=Watch(progress=False),
        )
    once = 5 * done.num_steps  # two routers give two tensors each, one scan one
    assert once * (2 if training.activation_checkpointing else 1) == len(dtypes)
    assert set(dtypes) == {torch.float32}
    assert done.losses[-1] < done.losses[0]
