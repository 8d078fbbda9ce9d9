"""How even the experts' load is, and that the correction bias evens it out."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from updater.nemotron import checkpoint
from updater.nemotron.experts import routed_tokens
from updater.nemotron.load import ExpertLoad
from updater.settings import TrainingSettings
from updater.train.encode import PADDING, collate, encode
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

ROUTER = "layers.1.mixer.gate"


@pytest.fixture
def model(base: Path) -> Any:
    return checkpoint.load(base)[0]


def test_each_token_counts_once_for_each_of_its_experts_and_padding_never(model: Any) -> None:
    texts = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]
    padded = torch.full((3, 5), PADDING)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = torch.tensor(text)
    with torch.no_grad(), routed_tokens(model.model) as expected:
        for text in texts:
            model(torch.tensor([text]))
    with torch.no_grad(), ExpertLoad(model, padding=PADDING) as load:
        model(padded)
        counted = {name: count.clone() for name, count in load._step.items()}
        load.stepped()
        found = load.read()
    assert counted.keys() == {f"{name}.gate" for name in expected}
    for name, count in expected.items():
        assert counted[f"{name}.gate"].tolist() == count.tolist()
        assert count.sum() == 2 * 9
    every = list(expected.values())
    assert found["busiest"] == max(float(c.max() / c.double().mean()) for c in every)
    assert found["idle"] == sum(int((c == 0).sum()) for c in every) / sum(map(len, every))
    assert load.read() == {}
    with torch.no_grad():
        model(padded)
    load.stepped()
    assert load.read() == {}, "nothing is counted after the block"


def test_the_bias_goes_up_where_little_came_and_down_where_much_did(model: Any) -> None:
    router = model.model.get_submodule(ROUTER)
    with ExpertLoad(model, padding=PADDING) as load:
        load._step[ROUTER] += torch.tensor([6.0, 0, 3, 3, 5, 1], dtype=torch.float64)
        load.stepped(0.01)
    assert router.e_score_correction_bias.tolist() == pytest.approx(
        [-0.01, 0.01, 0, 0, -0.01, 0.01]
    )


@pytest.mark.parametrize(("rate", "sums"), [(0.0, 1), (1e-3, 6)])
def test_processes_sum_all_layers_at_once_and_only_where_it_is_asked(
    model: Any, rate: float, sums: int
) -> None:
    """Two processes that see the same: once when it is read, and in a step only to move a bias."""
    asked: list[torch.Tensor] = []

    def total(counts: torch.Tensor) -> torch.Tensor:
        asked.append(counts)
        return 2 * counts

    with torch.no_grad(), ExpertLoad(model, padding=PADDING, total=total) as load:
        for _ in range(5):
            model(torch.arange(3, 43).reshape(2, 20))
            load.stepped(rate)
        both = load.read()
    assert len(asked) == sums
    assert {tuple(counts.shape) for counts in asked} == {(2, 6)}
    with torch.no_grad(), ExpertLoad(model, padding=PADDING) as load:
        model(torch.arange(3, 43).reshape(2, 20))
        load.stepped()
        assert rate or both == pytest.approx(load.read())


def test_what_is_computed_again_on_the_way_back_does_not_count(
    base: Path, language: Any, quick: TrainingSettings, tmp_path: Path
) -> None:
    loads = []
    for on in (False, True):
        model, tokenizer = checkpoint.load(base)
        done = fit(
            model,
            Lesson.of(tokenizer, language(0, 32), None, max_length_tokens=64),
            training=dataclasses.replace(quick, epochs=1, activation_checkpointing=on),
            guards=Guards(),
            folder=tmp_path / str(on),
            watch=Watch(progress=False),
        )
        loads.append(done.experts)
    assert loads[0] == loads[1]


def test_a_model_without_experts_has_no_load(model: Any) -> None:
    model.model.layers = torch.nn.ModuleList(
        layer for layer in model.model.layers if layer.block_type != "moe"
    )
    with torch.no_grad(), ExpertLoad(model, padding=PADDING, total=pytest.fail) as load:
        model(torch.arange(3, 43).reshape(2, 20))
        load.stepped()
        assert load.read() == {}


def test_an_uneven_load_is_evened_out(model: Any, base: Path, language: Any) -> None:
    """A router that sends nearly all to two of its six experts."""
    _, tokenizer = checkpoint.load(base)
    batch = collate(encode(tokenizer, language(0, 64), max_length_tokens=64), range(64))
    router = model.model.get_submodule(ROUTER)
    with torch.no_grad():
        router.e_score_correction_bias[:2] += 0.05
    seen = []
    with torch.no_grad(), ExpertLoad(model, padding=PADDING) as load:
        for _ in range(150):
            model(batch.tokens_bl)
            seen.append(load._step[ROUTER].max() / load._step[ROUTER].mean())
            load.stepped(1e-3)
    assert seen[0] > 2
    assert max(seen[-10:]) < 1.3


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_in_training_the_bias_moves_only_on_request_and_survives_a_kill(
    base: Path, language: Any, quick: TrainingSettings, rate: float, tmp_path: Path
) -> None:
    training = dataclasses.replace(quick, epochs=2, router_bias_rate=rate, checkpoint_every_steps=5)
    seen: list[dict[str, float]] = []

    def trained(folder: Path, *, stop_at: int = 0) -> tuple[dict[str, torch.Tensor], Fit]:
        model, tokenizer = checkpoint.load(base)

        def watch(step: int, metrics: dict[str, float]) -> None:
            seen.append(metrics)
            if stop_at and step >= stop_at:
                raise KeyboardInterrupt

        done = fit(
            model,
            Lesson.of(tokenizer, language(0, 160), None, max_length_tokens=64),
            training=training,
            guards=Guards(),
            folder=folder,
            watch=Watch(watch, progress=False),
        )
        return {n: b.clone() for n, b in model.named_buffers() if "correction" in n}, done

    whole, done = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parted", stop_at=10)
    parted, again = trained(tmp_path / "parted")
    # Each token has two experts in each layer; what was counted before the kill is.
    assert {n: sum(each) for n, each in done.experts.items()} == {
        f"backbone.layers.{layer}": 2 * done.num_tokens for layer in (1, 4)
    }
    assert again.experts == done.experts
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    moved = any(bool(bias.any()) for bias in whole.values())
    assert moved is bool(rate)
    assert all(1 <= m["train/experts_busiest"] <= 3 for m in seen)
    assert all(0 <= m["train/experts_idle"] <= 1 for m in seen)


def test_a_bias_that_frozen_routers_would_not_need_is_refused() -> None:
    with pytest.raises(ValueError, match="router_bias_rate, train_routers"):
        TrainingSettings(router_bias_rate=1e-3)
