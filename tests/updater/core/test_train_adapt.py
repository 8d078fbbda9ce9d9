"""LoRA: only factors learn, and afterwards the model is a plain one with other numbers."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regularizers.anchor import NoAnchor, QuadraticAnchor
from updater.errors import InputError
from updater.nemotron import checkpoint, files
from updater.nemotron.weights import stays_float32
from updater.settings import TrainingSettings
from updater.train.adapt import adapted, freeze, frozen_dtype
from updater.train.encode import encode
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.record import Watch

LORA = TrainingSettings(
    adapt="lora", lora_rank=4, lora_experts=True, epochs=2, batch_size=8, learning_rate=2e-2
)
TOKENS = torch.arange(40).reshape(2, 20)


def run(start: Path, folder: Path, table: Any, anchor: Any = None, **changes: Any) -> Any:
    """The model after a short run on `table`, and what `fit` returned."""
    model, tokenizer = checkpoint.load(start)
    done = fit(
        model,
        Lesson.of(tokenizer, table, None, max_length_tokens=64),
        training=dataclasses.replace(LORA, **changes),
        guards=Guards(anchor or NoAnchor()),
        folder=folder,
        watch=Watch(progress=False),
    )
    return model, done


def disturb(model: Any) -> None:
    """Every factor is as if it had been trained."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)


@pytest.mark.parametrize("experts", [True, False])
def test_merged_the_model_says_the_same_and_nothing_of_peft_is_left(
    experts: bool, base: Path
) -> None:
    model, _ = checkpoint.load(base)
    checkpoint.freeze_routers(model)
    plain, _ = checkpoint.load(base)
    before = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    with adapted(model, dataclasses.replace(LORA, lora_experts=experts)) as adaptation:
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all(".lora_" in name for name in trained)
        assert len(trained) == 2 * len(adaptation.factors)
        torch.testing.assert_close(model(TOKENS).logits, plain(TOKENS).logits)
        disturb(model)
        adapted_logits = model(TOKENS).logits
    assert (adapted_logits - plain(TOKENS).logits).abs().max() > 0.1
    torch.testing.assert_close(model(TOKENS).logits, adapted_logits, rtol=0, atol=1e-5)
    assert type(model) is type(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert {name: (p.shape, p.dtype) for name, p in model.named_parameters()} == before
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert not any("peft" in type(module).__module__ for module in model.modules())
    assert vars(model).keys() == vars(plain).keys()


def test_what_moves_is_what_has_factors(base: Path, tmp_path: Path, language: Any) -> None:
    before = checkpoint.load(base)[0].state_dict()
    expected = {
        "model.layers.0.mixer.in_proj.weight",
        *(f"model.layers.2.mixer.{side}_proj.weight" for side in "qkvo"),
        *(f"model.layers.3.mixer.{side}_proj.weight" for side in ("up", "down")),
    }
    for layer in (1, 4):
        stem = f"model.layers.{layer}.mixer"
        expected |= {f"{stem}.shared_experts.{side}_proj.weight" for side in ("up", "down")}
    experts = {
        f"model.layers.{n}.mixer.experts.{side}_proj" for n in (1, 4) for side in ("up", "down")
    }
    for name, wanted in (("without", expected), ("with", expected | experts)):
        model, _ = run(base, tmp_path / name, language(0, 48), lora_experts=name == "with")
        moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
        assert moved == wanted


def test_the_language_is_learnt_further_and_the_export_says_it(
    trained: Path, tmp_path: Path, language: Any
) -> None:
    from updater.evaluate import outcomes

    # What each thing's colour was is now its neighbour's.
    table = language(300, 80).set_column(2, "completion", language(301, 80)["completion"])
    changes = {"epochs": 8, "lora_rank": 8, "learning_rate": 5e-3}
    model, done = run(trained, tmp_path / "state", table, **changes)
    assert done.losses[-1] < 0.3 * done.losses[0]
    folder = checkpoint.export(model, trained, tmp_path / "candidate")
    loaded, tokenizer = checkpoint.load(folder)
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)
    found = outcomes(loaded, tokenizer, table, batch_size=80, max_length_tokens=64)
    assert sum(found["correct"].to_pylist()) >= 72


def test_the_seed_decides_and_chance_outside_does_not(
    base: Path, tmp_path: Path, language: Any
) -> None:
    def end(name: str, **changes: Any) -> torch.Tensor:
        model, _ = run(base, tmp_path / name, language(0, 16), **changes)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    chance = torch.random.get_rng_state()
    first = end("a", epochs=1)
    assert torch.equal(torch.random.get_rng_state(), chance)
    torch.manual_seed(2)
    assert torch.equal(first, end("b", epochs=1))
    assert not torch.equal(first, end("c", epochs=1, seed=1))


def test_a_run_that_fails_leaves_the_base(base: Path) -> None:
    before = checkpoint.load(base)[0].state_dict()
    model, _ = checkpoint.load(base)

    def fail() -> None:
        with adapted(model, LORA):
            disturb(model)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def random_anchor(model: Any, strength: float) -> QuadraticAnchor:
    torch.manual_seed(3)
    live = dict(model.named_parameters())
    star = {name: p + 0.1 * torch.randn_like(p) for name, p in live.items()}
    return QuadraticAnchor(star, {name: torch.rand_like(p) for name, p in live.items()}, strength)


def test_the_anchor_sees_the_merged_weights(base: Path) -> None:
    """In peft's own modules, experts' too: the penalty is that of the model once merged, and the
    gradient is its slope (along A the penalty is a parabola, so a wide difference is exact)."""
    model, _ = checkpoint.load(base)
    held = random_anchor(model, 5.0)
    with adapted(model, LORA) as adaptation:
        disturb(model)
        low_rank = adaptation.hold(held)
        for parameter in model.parameters():
            parameter.grad = None
        low_rank.add_gradient({})
        for factors in adaptation.factors.values():
            for leaf in (factors.a, factors.b):
                direction = 0.1 * torch.randn_like(leaf)
                slope = float((leaf.grad * direction).sum())
                ends = []
                for sign in (1, -1):
                    with torch.no_grad():
                        leaf.add_(sign * direction)
                        ends.append(float(low_rank.penalty({}).double()))
                        leaf.sub_(sign * direction)
                assert (ends[0] - ends[1]) / 2 == pytest.approx(slope, rel=1e-2, abs=1e-2)
        penalty = low_rank.penalty({})
    again = random_anchor(checkpoint.load(base)[0], 5.0)
    torch.testing.assert_close(penalty, again.penalty(dict(model.named_parameters())))


def test_a_strong_anchor_holds_the_merged_weights(
    base: Path, tmp_path: Path, language: Any
) -> None:
    before = checkpoint.load(base)[0]
    start = dict(before.named_parameters())

    def moved(anchor: Any, name: str) -> float:
        model, _ = run(base, tmp_path / name, language(0, 32), anchor)
        live = dict(model.named_parameters())
        return sum(float((live[n] - p).detach().norm() ** 2) for n, p in start.items())

    free = moved(NoAnchor(), "free")
    assert moved(QuadraticAnchor(start, None, 1e4), "held") < 0.2 * free


def test_an_expert_without_a_token_stays_bit_for_bit(
    base: Path, tmp_path: Path, language: Any
) -> None:
    """Its anchor is elsewhere and pulls: with no token of its own it stays."""
    from updater.nemotron.experts import routed_tokens
    from updater.train.encode import collate, encode

    model, tokenizer = checkpoint.load(base)
    table = language(0, 1)
    with routed_tokens(model) as routed:
        model(collate(encode(tokenizer, table, max_length_tokens=64), [0]).tokens_bl)
    unused = {
        layer: (routed[f"model.layers.{layer}.mixer"] == 0).nonzero()[:, 0] for layer in (1, 4)
    }
    before = model.state_dict()
    after = run(base, tmp_path, table, random_anchor(model, 1.0), epochs=1)[0].state_dict()
    for layer, experts in unused.items():
        for side in ("up", "down"):
            name = f"model.layers.{layer}.mixer.experts.{side}_proj"
            assert torch.equal(before[name][experts], after[name][experts])
            assert not torch.equal(before[name], after[name])


def test_a_finished_run_called_again_gives_the_same(
    base: Path, tmp_path: Path, language: Any
) -> None:
    first: Fit
    model, first = run(base, tmp_path, language(0, 16))
    again, second = run(base, tmp_path, language(0, 16))
    assert first == second
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_state_on_another_base_is_not_used(
    base: Path, trained: Path, tmp_path: Path, language: Any
) -> None:
    """The same seed draws the same factors on both: only the frozen weights tell them apart."""
    run(base, tmp_path / "a", language(0, 16))
    resumed, _ = run(trained, tmp_path / "a", language(0, 16))
    fresh, _ = run(trained, tmp_path / "b", language(0, 16))
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])


@pytest.mark.parametrize("trace", ["path", "optimizer"])
def test_what_a_training_records_of_full_weights_is_refused(
    trace: str, base: Path, tmp_path: Path, language: Any
) -> None:
    model, tokenizer = checkpoint.load(base)
    with pytest.raises(InputError, match="nothing is recorded of the full weights"):
        fit(
            model,
            Lesson.of(tokenizer, language(0, 4), None, max_length_tokens=64),
            training=LORA,
            guards=Guards(),
            folder=tmp_path,
            watch=Watch(progress=False),
            trace=trace,
        )


def narrowed(base: Path, target: Path) -> Path:
    """A copy as NVIDIA would release it: bfloat16, but for routers and the states' decay."""
    shutil.copytree(base, target)
    tensors = load_file(base / files.SINGLE)
    small = {n: t if stays_float32(n) else t.bfloat16() for n, t in tensors.items()}
    save_file(small, target / files.SINGLE, {"format": "pt"})
    return target


def test_frozen_weights_are_as_small_as_they_were_released(base: Path, tmp_path: Path) -> None:
    released = checkpoint.check(narrowed(base, tmp_path / "released"))
    made = checkpoint.check(base)
    mixed = dataclasses.replace(LORA, precision="bf16-mixed")
    assert frozen_dtype(mixed, released) == torch.bfloat16
    for training, contents in (
        (mixed, made),
        (LORA, released),
        (dataclasses.replace(mixed, adapt="full"), released),
    ):
        assert frozen_dtype(training, contents) == torch.float32


def test_trained_on_bfloat16_it_comes_to_what_float32_weights_come_to(
    trained: Path, language: Any, tmp_path: Path
) -> None:
    """But for rounding: nearer to it than to where both began, and both learn alike."""
    released = narrowed(trained, tmp_path / "released")
    lesson, ends, losses = language(300, 64), [], []
    for dtype in (torch.float32, torch.bfloat16):
        model, tokenizer = checkpoint.load(released, dtype=dtype)
        start = {n: p.detach().float().clone() for n, p in model.named_parameters()}
        done = fit(
            model,
            Lesson.of(tokenizer, lesson, None, max_length_tokens=64),
            training=dataclasses.replace(LORA, precision="bf16-mixed", learning_rate=5e-3),
            guards=Guards(),
            folder=tmp_path / str(dtype),
            watch=Watch(progress=False),
        )
        assert {p.dtype for n, p in model.named_parameters() if not stays_float32(n)} == {dtype}
        exported = checkpoint.export(model, released, tmp_path / f"{dtype}-export")
        kinds = {n: e.dtype for n, e in checkpoint.check(exported).entries.items()}
        assert kinds == {n: e.dtype for n, e in checkpoint.check(released).entries.items()}
        ends.append({n: p.detach().float() for n, p in model.named_parameters()})
        losses.append(done.losses)
    apart = sum(float((ends[0][n] - ends[1][n]).square().sum()) for n in start)
    moved = sum(float((ends[0][n] - start[n]).square().sum()) for n in start)
    assert apart < moved / 4
    assert losses[1] == pytest.approx(losses[0], rel=0.1, abs=0.05)


def test_over_bfloat16_weights_the_factors_move_by_the_smallest_steps(
    trained: Path, language: Any, tmp_path: Path
) -> None:
    """At 1e-5, the least that NVIDIA's recipes take, a step is a hundredth of what bfloat16 tells
    apart beside a drawn factor."""
    released = narrowed(trained, tmp_path / "released")
    states = []
    for num_steps in (1, 20):
        model, tokenizer = checkpoint.load(released, dtype=torch.bfloat16)
        folder = tmp_path / str(num_steps)
        fit(
            model,
            Lesson.of(tokenizer, language(300, 64), None, max_length_tokens=64),
            training=dataclasses.replace(
                LORA,
                precision="bf16-mixed",
                lora_experts=True,
                learning_rate=1e-5,
                decay="constant",
                max_steps=num_steps,
            ),
            guards=Guards(),
            folder=folder,
            watch=Watch(progress=False),
        )
        state = load_file(folder / "training.safetensors")
        states.append({name: t for name, t in state.items() if ".lora_" in name})
    first, last = states
    assert {tensor.dtype for tensor in last.values()} == {torch.float32}
    # Routed experts that no token came to stay for another reason.
    drawn = [n for n in last if n.startswith("parameter/") and ".lora_A." in n]
    drawn = [name for name in drawn if ".mixer.experts." not in name]
    stayed = sum(int((first[name] == last[name]).sum()) for name in drawn)
    assert 100 * stayed < sum(last[name].numel() for name in drawn)


@pytest.mark.parametrize("experts", [True, False])
def test_what_lora_leaves_has_no_importance(experts: bool, base: Path, language: Any) -> None:
    model, tokenizer = checkpoint.load(base)
    training = dataclasses.replace(LORA, lora_experts=experts)
    freeze(model, training)
    held = {name for name, p in model.named_parameters() if p.requires_grad}
    found = estimate(
        model,
        encode(tokenizer, language(0, 4), max_length_tokens=64),
        estimator="empirical",
        checkpoint_digest="",
        data_digest="",
        progress=False,
    )
    with adapted(model, training) as adaptation:
        assert found.tensors.keys() == held == set(adaptation.factors)
    whole, _ = checkpoint.load(base)
    freeze(whole, dataclasses.replace(training, adapt="full"))
    routers = {n for n, p in whole.named_parameters() if not p.requires_grad}
    assert routers == {n for n, _ in whole.named_parameters() if n.endswith("gate.weight")}


def test_the_anchor_is_that_of_the_whole_importance(base: Path, language: Any) -> None:
    """What has no factors does not move, so that nothing is lost with its importance."""
    model, tokenizer = checkpoint.load(base)
    examples = encode(tokenizer, language(0, 4), max_length_tokens=64)
    about = {
        "estimator": "empirical",
        "checkpoint_digest": "",
        "data_digest": "",
        "progress": False,
    }
    whole = estimate(model, examples, **about).tensors
    freeze(model, LORA)
    part = estimate(model, examples, **about).tensors
    for name, tensor in part.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-9)
    with adapted(model, LORA) as adaptation:
        disturb(model)
        weights = dict(model.named_parameters())
        held = dict(adaptation.weights)
        both = [
            adaptation.hold(QuadraticAnchor(held, of, 1.0)).penalty(weights) for of in (whole, part)
        ]
    torch.testing.assert_close(*both)


def test_importance_of_a_bfloat16_model_in_mixed_precision(trained: Path, language: Any) -> None:
    """As the whole Nano is weighed on one GPU: frozen weights in bfloat16, autocast."""
    exact, tokenizer = checkpoint.load(trained)
    rounded, _ = checkpoint.load(trained, dtype=torch.bfloat16)
    examples = encode(tokenizer, language(0, 12), max_length_tokens=64)
    about = {"estimator": "empirical", "checkpoint_digest": "", "data_digest": ""}
    found = []
    for model, precision in ((exact, "32-true"), (rounded, "bf16-mixed")):
        freeze(model, LORA)
        one = estimate(model, examples, **about, precision=precision, progress=False)
        assert {tensor.dtype for tensor in one.tensors.values()} == {torch.float32}
        found.append(torch.cat([tensor.flatten() for tensor in one.tensors.values()]))
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.9
    assert float(found[1].sum() / found[0].sum()) == pytest.approx(1, abs=0.3)
