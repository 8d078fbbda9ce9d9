"""Avalanche's strategies on the small Nemotron-H: each learns a stream; the loss is ours."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.nemotron.weights import is_experts
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.encode import Encoded, collate, encode, negative_log_likelihood
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

pytest.importorskip("avalanche", reason="the extra study is not installed")

from updater.study.peers import library, tokens
from updater.study.peers.learner import Learnt, Peer
from updater.study.peers.strategies import Means, parts
from updater.study.peers.walk import PeerSettings, Route, walk

STRATEGIES = {
    "naive": 0.0,
    "cumulative": 0.0,
    "replay": 0.0,
    "ewc": 1.0,
    "online_ewc": 1.0,
    "si": 1.0,
    "mas": 1e-3,
    "lwf": 1.0,
    "gem": 0.0,
    "agem": 0.0,
    "der": 0.1,
    "der++": 0.1,
    "replay+ewc": 1.0,
}
BRIEF = TrainingSettings(epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def periods(base: Path, language: Any) -> dict[str, Encoded]:
    """Three periods of 24 examples."""
    _, tokenizer = checkpoint.load(base)
    return {
        name: encode(tokenizer, language(first, 24), max_length_tokens=64)
        for name, first in (("a", 0), ("b", 24), ("c", 48))
    }


def means(strength: float) -> Means:
    regularizer = RegularizerSettings(strength=strength)
    return Means(budget=12, num_periods=3, batch_size=8, regularizer=regularizer)


def peer_on(base: Path, strategy: str, training: TrainingSettings, strength: float = 0.0) -> Any:
    model, _ = checkpoint.load(base)
    return model, Peer(strategy, model, training=training, means=means(strength), longest=24)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_through_a_stream(
    strategy: str, trained: Path, periods: dict[str, Encoded], language: Any
) -> None:
    model, tokenizer = checkpoint.load(trained)
    holdout = language(100, 8)

    def score(model: NemotronHForCausalLM) -> Mapping[str, tuple[int, int]]:
        table = outcomes(model, tokenizer, holdout, batch_size=8, max_length_tokens=64)
        return {"a": (sum(table["correct"].to_pylist()), table.num_rows)}

    regularizer = RegularizerSettings(strength=STRATEGIES[strategy])
    settings = PeerSettings(strategy, BRIEF, regularizer, budget=12)
    route = Route({"a": periods["a"]}, {"b": periods["b"], "c": periods["c"]})
    run = walk(model, route, settings, arm=f"their {strategy}", score=score)

    assert run.failure == ""
    assert [stage.period for stage in run.stages] == ["a", "b", "c"]
    assert run.periods == ("a", "b", "c")
    assert run.stages[0].steps == 0
    assert all(stage.steps >= 3 and stage.seconds > 0 for stage in run.stages[1:])
    assert all(stage.tokens >= int(periods[stage.period].lengths.sum()) for stage in run.stages[1:])
    assert all(stage.scores["a"][1] == 8 for stage in run.stages)
    assert not model.training
    assert run == type(run).from_json(run.to_json())


def test_naive_takes_the_same_steps_as_our_fine_tuning(
    base: Path, periods: dict[str, Encoded], tmp_path: Path
) -> None:
    # One batch an epoch: whatever the order, each step sees the same examples.
    training = dataclasses.replace(BRIEF, epochs=4, batch_size=24, learning_rate=5e-3)
    model, _ = checkpoint.load(base)
    ours = fit(
        model,
        Lesson(periods["a"], 24),
        training=training,
        guards=Guards(),
        folder=tmp_path,
        watch=Watch(progress=False),
    )
    theirs_model, peer = peer_on(base, "naive", training)
    theirs = peer.learn(periods["a"])

    assert theirs.losses == pytest.approx(ours.losses, rel=1e-4)
    assert (theirs.steps, theirs.examples, theirs.tokens) == (
        ours.num_steps,
        ours.num_examples,
        ours.num_tokens,
    )
    for (name, one), (_, other) in zip(
        model.named_parameters(), theirs_model.named_parameters(), strict=True
    ):
        if not is_experts(name):  # ours holds those still that no token reached
            torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


def test_the_criterion_is_the_mean_per_completion_token(
    base: Path, periods: dict[str, Encoded]
) -> None:
    model, _ = checkpoint.load(base)
    examples = periods["a"]
    data = tokens.dataset(examples, width=40)
    x_b2l, y_bl, task_b = data.collate_fn([data[i] for i in range(5)])
    assert x_b2l.shape == (5, 2, 40)
    assert task_b.tolist() == [0] * 5

    with torch.no_grad():
        sums_b, counts_b = negative_log_likelihood(model, collate(examples, range(5)))
        some = tokens.likelihood(tokens.Answering(model)(x_b2l), y_bl)
        everywhere = functional.cross_entropy(tokens.AnsweringEverywhere(model)(x_b2l), y_bl)
    torch.testing.assert_close(some, sums_b.sum() / counts_b.sum())
    torch.testing.assert_close(everywhere, sums_b.sum() / counts_b.sum())


def test_padding_reaches_to_the_longest_of_the_batch_and_is_not_counted(
    base: Path, periods: dict[str, Encoded]
) -> None:
    model, _ = checkpoint.load(base)
    examples = periods["a"]
    data = tokens.dataset(examples)
    x_b2l, y_bl, _ = data.collate_fn([data[i] for i in range(24)])
    assert x_b2l.shape[-1] == y_bl.shape[-1] == examples.lengths.max()
    wrapped = tokens.Answering(model)
    wrapped(x_b2l)
    assert wrapped.num_tokens == 0
    wrapped.counting = True
    wrapped(x_b2l)
    assert (wrapped.num_examples, wrapped.num_tokens) == (24, examples.lengths.sum())


def test_replay_puts_a_batch_of_memory_beside_each_new_one(
    base: Path, periods: dict[str, Encoded]
) -> None:
    _, peer = peer_on(base, "replay", BRIEF)
    peer.knows(periods["a"])
    learnt: Learnt = peer.learn(periods["b"])
    assert learnt.steps == 3
    assert learnt.examples > 24


def test_what_the_first_model_knows_is_held_but_not_trained(
    base: Path, periods: dict[str, Encoded]
) -> None:
    model, peer = peer_on(base, "ewc", BRIEF, strength=1.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    peer.knows(periods["a"])
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    first, second = peer.learn(periods["b"]), peer.learn(periods["c"])
    assert len(first.losses) == len(second.losses) == 3


def test_ewc_of_great_strength_keeps_the_weights(base: Path, periods: dict[str, Encoded]) -> None:
    moved = []
    for strength in (0.0, 1e8):
        model, peer = peer_on(base, "ewc", BRIEF, strength=strength)
        before = model.lm_head.weight.detach().clone()
        peer.knows(periods["a"])
        peer.learn(periods["b"])
        moved.append(float((model.lm_head.weight.detach() - before).norm()))
    assert moved[1] < moved[0]


def test_the_same_seed_gives_the_same_losses(base: Path, periods: dict[str, Encoded]) -> None:
    losses = []
    for seed in (3, 3, 4):
        _, peer = peer_on(base, "replay", dataclasses.replace(BRIEF, seed=seed))
        peer.knows(periods["a"])
        losses.append(peer.learn(periods["b"]).losses)
    assert losses[0] == losses[1] != losses[2]


def test_a_run_that_diverges_says_so_and_ends(base: Path, periods: dict[str, Encoded]) -> None:
    model, _ = checkpoint.load(base)
    with torch.no_grad():
        model.lm_head.weight.fill_(np.nan)
    settings = PeerSettings("naive", BRIEF, RegularizerSettings(), budget=0)
    route = Route({"a": periods["a"]}, {"b": periods["b"]})
    run = walk(model, route, settings, arm="naive", score=lambda model: {"a": (0, 1)})
    assert "the loss of step 1 is nan" in run.failure
    assert len(run.stages) == 1


@pytest.mark.parametrize("strategy", ["ewx", "naive+ewc", "der+replay", ""])
def test_an_unknown_strategy_is_bad_input(strategy: str) -> None:
    with pytest.raises(InputError, match="must be one of naive"):
        parts(strategy)


def test_the_core_never_imports_avalanche() -> None:
    code = (
        "import sys, updater.train.fit, updater.evaluate, updater.nemotron.checkpoint\n"
        "sys.exit('avalanche' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_taken_from_avalanche_is_there() -> None:
    assert all(hasattr(library, name) for name in library.__all__)
