"""Avalanche's strategies on the small Nemotron-H: each learns a stream; the loss is ours."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from updater.errors import InputError, UpdateError
from updater.nemotron import checkpoint
from updater.nemotron.weights import is_experts
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    RegularizerSettings,
    RehearsalSettings,
    Settings,
    SourceSettings,
    TrainingSettings,
    WorkspaceSettings,
)
from updater.train.encode import Encoded, collate, encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.likelihood import negative_log_likelihood
from updater.train.record import Watch

pytest.importorskip("avalanche", reason="the extra study is not installed")

from updater.study.peers import names, tokens
from updater.study.peers.learner import Learnt, Peer
from updater.study.peers.strategies import PLUGINS, Means

BRIEF = TrainingSettings(epochs=1, batch_size=8, learning_rate=1e-3)
HELD = RegularizerSettings(strength=1.0)


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
    return Means(budget=12, num_past=3, batch_size=8, regularizer=regularizer)


def asked(**sections: Any) -> Settings:
    return Settings(
        workspace=WorkspaceSettings(name="t"),
        source=SourceSettings(
            uri="rows.jsonl",
            fields=FieldTemplates(id="{id}", prompt="{q}", completion="{a}", period="{p}"),
        ),
        periods=PeriodSettings(order=("a", "b")),
        **{"training": BRIEF, **sections},
    )


def peer_on(base: Path, strategy: str, training: TrainingSettings, strength: float = 0.0) -> Any:
    model, _ = checkpoint.load(base)
    return model, Peer(strategy, model, training=training, means=means(strength), longest=24)


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


@pytest.mark.parametrize(
    ("strategy", "strength"),
    [
        *(("ewc", 1e6), ("online_ewc", 1e6), ("si", 1e6), ("mas", 1e3)),
        *(("lwf", 1e2), ("der", 1e2), ("der++", 1e2), ("replay+ewc", 1e6)),
    ],
)
def test_a_strength_holds_the_weights(
    base: Path, periods: dict[str, Encoded], strategy: str, strength: float
) -> None:
    """With it they end elsewhere than without, from the second period that is trained on."""
    training = dataclasses.replace(BRIEF, learning_rate=1e-2)
    ends, starts = [], []
    for strong in (0.0, strength):
        model, peer = peer_on(base, strategy, training, strong)
        starts.append([p.detach().clone() for p in model.parameters()])
        peer.learn(periods["a"])
        peer.learn(periods["b"])
        ends.append([p.detach().clone() for p in model.parameters()])
    apart = distance(*ends)
    moved = distance(starts[0], ends[0])
    assert apart > 0.01 * moved


def distance(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return sum(float((one - other).norm()) for one, other in zip(first, second, strict=True))


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
    assert learnt.examples == 24 + 8 + 4 + 8  # the memory's twelve come round


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


def test_a_loss_that_is_no_number_ends_it(base: Path, periods: dict[str, Encoded]) -> None:
    model, peer = peer_on(base, "naive", BRIEF)
    with torch.no_grad():
        model.lm_head.weight.fill_(np.nan)
    with pytest.raises(UpdateError, match="the loss of step 1 is nan"):
        peer.learn(periods["a"])


def test_lwf_pulls_towards_the_answers_of_before(base: Path, periods: dict[str, Encoded]) -> None:
    moved = []
    for strength in (0.0, 1e3):
        model, peer = peer_on(base, "lwf", BRIEF, strength=strength)
        before = model.lm_head.weight.detach().clone()
        peer.knows(periods["a"])
        losses = peer.learn(periods["b"]).losses
        moved.append((float((model.lm_head.weight.detach() - before).norm()), losses))
    assert moved[1][0] < moved[0][0]
    # The first step's model is the one it is compared with.
    assert moved[1][1][0] == pytest.approx(moved[0][1][0], rel=1e-4)


@pytest.mark.parametrize("strategy", ["ewx", "naive+ewc", "ewc+ewc", "der+replay", "replay+", ""])
def test_an_unknown_strategy_is_bad_input(strategy: str) -> None:
    with pytest.raises(InputError, match="must be one of naive"):
        names.parts(strategy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accumulate": 2}, "training.accumulate = 2"),
        ({"precision": "bf16-mixed"}, "knows only '32-true'"),
        ({"max_steps": 5}, "training.max_steps = 5"),
    ],
)
def test_what_their_loop_cannot_do_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        names.check("naive", asked(training=dataclasses.replace(BRIEF, **change)))


def test_a_memory_of_nothing_is_refused() -> None:
    nothing = {"rehearsal": RehearsalSettings(policy="none"), "regularizer": HELD}
    names.check("ewc", asked(**nothing))
    with pytest.raises(InputError, match="as many examples as rehearsal's budget"):
        names.check("replay+ewc", asked(**nothing))


@pytest.mark.parametrize("strategy", ["ewc", "replay+si", "der++"])
def test_a_strength_in_their_units_has_no_default(strategy: str) -> None:
    names.check(strategy, asked(regularizer=HELD))
    with pytest.raises(InputError, match="in Avalanche's own units, so there is no default"):
        names.check(strategy, asked())
    names.check("replay", asked())


def test_every_name_can_be_built(base: Path) -> None:
    assert set(PLUGINS) == set(names.JOINED)
    for name in (*names.ALONE, *names.JOINED):
        peer_on(base, name, BRIEF, strength=1.0)


@pytest.mark.parametrize("strategy", ["gem", "agem"])
def test_a_memory_that_is_shared_out_at_once_has_the_whole_budget_at_the_last_update(
    base: Path, periods: dict[str, Encoded], strategy: str
) -> None:
    """12 examples, of three past periods 4 each."""
    _, peer = peer_on(base, strategy, BRIEF)
    for name in ("a", "b", "c"):
        peer.knows(periods[name])
    plugin = peer._strategy.plugins[0]
    held = plugin.memory_x.values() if strategy == "gem" else plugin.buffers
    assert [len(some) for some in held] == [4, 4, 4]


def test_agem_remembers_more_periods_than_a_batch_has_examples(
    base: Path, periods: dict[str, Encoded]
) -> None:
    model, _ = checkpoint.load(base)
    few = dataclasses.replace(means(0.0), num_past=3, batch_size=2)
    training = dataclasses.replace(BRIEF, batch_size=2)
    peer = Peer("agem", model, training=training, means=few, longest=24)
    for name in ("a", "b", "c"):
        peer.knows(periods[name])
    assert peer.learn(periods["a"]).steps == 12


def test_avalanche_enters_by_one_door() -> None:
    root = Path(__file__).parents[3] / "updater"
    doors = [p.name for p in root.rglob("*.py") if "from avalanche" in p.read_text("utf-8")]
    assert doors == ["library.py"]


def test_the_core_never_imports_avalanche() -> None:
    code = (
        "import sys, updater.train.fit, updater.evaluate, updater.study.students\n"
        "sys.exit('avalanche' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
