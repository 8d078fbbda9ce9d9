"""Every method takes away what it is asked to, and the rest is a checkpoint like any other."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from compression.saliency import CRITERIA
from updater.compress.engine import Compressed, compress
from updater.compress.looking import Shown
from updater.errors import InputError
from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.nemotron.weights import released
from updater.settings import PRUNINGS, CompressionSettings
from updater.train.encode import Encoded, encode

SIZES = {
    "neurons": ("moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    "experts": ("n_routed_experts",),
    "heads": ("mamba_num_heads",),
    "layers": ("num_hidden_layers",),
}
EVERY = [(method, remove) for method, pruning in PRUNINGS.items() for remove in pruning.removes]


@pytest.fixture(scope="module")
def examples(trained: Path, language: Any) -> Encoded:
    _, tokenizer = checkpoint.load(trained)
    return encode(tokenizer, language(0, 40), max_length_tokens=64)


def run(
    base: Path, at: Path, examples: Encoded | None, *, seed: int = 0, **changes: Any
) -> tuple[Path, Compressed]:
    settings = CompressionSettings(damage_rounds=40, **changes)
    shown = Shown("empirical", seed, examples=examples)
    return at / "small", compress(base, at / "small", settings, shown, work=at / "work")


def accuracy(folder: Path, table: Any) -> float:
    said = outcomes(*checkpoint.load(folder), table, batch_size=16, max_length_tokens=64)
    return sum(said["correct"].to_pylist()) / said.num_rows


def fields(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("method", "remove"), EVERY, ids="-".join)
def test_every_method_takes_away_what_it_can_choose_among(
    trained: Path, examples: Encoded, tmp_path: Path, method: str, remove: str
) -> None:
    folder, found = run(trained, tmp_path, examples, method=method, remove=remove, sparsity=0.5)
    before, after = fields(trained), fields(folder)
    if remove == "weights":
        assert before == after
        assert found.num_bytes == found.base_bytes
        assert 0.55 < found.nonzero_fraction < 0.8  # embedding, head and attention stay whole
    elif remove == "layers":
        assert len(after["hybrid_override_pattern"]) == 3
        assert "*" in after["hybrid_override_pattern"]
    else:
        for name in SIZES[remove]:
            assert after[name] == before[name] / 2, name
    if remove != "weights":
        assert found.num_bytes < found.base_bytes
    assert not (tmp_path / "work").exists()
    model = AutoModelForCausalLM.from_pretrained(folder)
    logits = model(torch.arange(12)[None]).logits
    assert bool(logits.isfinite().all())


def test_what_a_method_knows_is_of_use(
    trained: Path, examples: Encoded, language: Any, tmp_path: Path
) -> None:
    """Of half the weights the loss is told best by who has looked at it; chance is the worst."""
    held_out = language(500, 80)
    by = {
        method: accuracy(
            run(trained, tmp_path / method, examples, method=method, sparsity=0.5)[0], held_out
        )
        for method in ("random", "magnitude", "obd", "wanda")
    }
    assert by["obd"] >= by["magnitude"] > by["random"]
    assert by["wanda"] > by["random"]


def test_damping_is_so_many_times_the_mean_curvature(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    """Of the matrices that can lose weights; and so much that nothing else is seen is magnitude."""
    from compression.saliency import score
    from updater.compress.looking import Looking
    from updater.compress.matrices import prunable

    settings = CompressionSettings(method="obd", damping=0.5)
    looking = Looking(trained, settings, Shown("empirical", 0, examples=examples))
    names = prunable(looking.contents.entries, attention=False)
    known = {name: looking.known(name) for name in names}
    fishers = torch.cat([one.fisher.flatten() for one in known.values()])
    for name, one in known.items():
        assert one.damping == pytest.approx(0.5 * float(fishers.double().mean()), rel=1e-5)
        weight = looking.weight(name)
        wanted = (one.fisher + one.damping) * weight.float() ** 2 / 2
        torch.testing.assert_close(score("obd", name, weight, one), wanted)
    for other in ("A_log", "D", "dt_bias", "norm.weight", "conv1d.weight"):
        assert looking.known(f"backbone.layers.0.mixer.{other}").damping == 0
    for undamped in ({"method": "obd_scaled"}, {"method": "obd", "damping": 0.0}):
        shown = Shown("empirical", 0, examples=examples)
        plain_look = Looking(trained, CompressionSettings(**undamped), shown)
        assert plain_look.known(names[0]).damping == 0
    asked = {"sparsity": 0.5, "remove": "weights"}
    damped = run(trained, tmp_path / "d", examples, method="obd", damping=1e9, **asked)[0]
    plain = run(trained, tmp_path / "m", None, method="magnitude", **asked)[0]
    mine, other = (dict(released(checkpoint.load(one)[0])) for one in (damped, plain))
    differing = sum(int(((mine[n] == 0) != (other[n] == 0)).sum()) for n in names)
    assert differing <= 1e-3 * fishers.numel()  # float32's ties


def test_rounds_end_where_one_does(trained: Path, examples: Encoded, tmp_path: Path) -> None:
    for remove in ("weights", "experts"):
        one = run(trained, tmp_path / "1", examples, method="obd", remove=remove, sparsity=0.5)[1]
        three = run(
            trained, tmp_path / "3", examples, method="obd", remove=remove, sparsity=0.5, rounds=3
        )[1]
        counts = [{k: len(v) for k, v in found.gone.items()} for found in (one, three)]
        assert counts[0] == counts[1]
        same = ("num_parameters", "nonzero_fraction", "num_bytes")
        assert [getattr(one, n) for n in same] == [getattr(three, n) for n in same]


def test_what_went_is_told_by_the_numbers_that_it_had(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    """Also after several rounds: experts are named by their router rows, which are bit for bit
    those that stayed."""
    asked = {"method": "reap", "remove": "experts", "sparsity": 0.67, "rounds": 3}
    folder, found = run(trained, tmp_path, examples, **asked)
    rows = [
        {n: t for n, t in released(checkpoint.load(one)[0]) if n.endswith(".gate.weight")}
        for one in (trained, folder)
    ]
    assert found.gone.keys() == {
        "backbone.layers.1.mixer.experts",
        "backbone.layers.4.mixer.experts",
    }
    for key, gone in found.gone.items():
        assert len(gone) == 4
        name = key.replace(".experts", ".gate.weight")
        stays = [n for n in range(6) if n not in gone]
        assert torch.equal(rows[1][name], rows[0][name][stays])


def test_zeros_are_told_by_matrix(trained: Path, examples: Encoded, tmp_path: Path) -> None:
    asked = {"method": "magnitude", "sparsity": 0.5, "scope": "tensor"}
    _, found = run(trained, tmp_path, examples, **asked)
    assert not found.gone
    shares = [share for name, share in found.zeros.items() if ".2.mixer" not in name]
    assert shares == pytest.approx([0.5] * len(shares), abs=0.01)
    assert all(share == 0 for name, share in found.zeros.items() if ".2.mixer" in name)


def test_a_tiny_round_is_passed_over_and_a_tiny_whole_refused(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    """Of six experts a third is two: the first of five rounds has none to take."""
    asked = {"method": "reap", "remove": "experts", "rounds": 5}
    folder, _ = run(trained, tmp_path, examples, sparsity=0.34, **asked)
    assert fields(folder)["n_routed_experts"] == 4
    with pytest.raises(InputError, match="none of n_routed_experts"):
        run(trained, tmp_path, examples, sparsity=0.05, **asked)


def test_a_pattern_leaves_two_of_four(trained: Path, examples: Encoded, tmp_path: Path) -> None:
    from updater.compress.matrices import is_prunable

    folder, _ = run(trained, tmp_path, examples, method="magnitude", pattern="2:4", sparsity=0.9)
    model, _ = checkpoint.load(folder)
    for name, weight in released(model):
        if is_prunable(name, attention=False):
            counts = (weight != 0).unflatten(-1, (-1, 4)).sum(-1)
            assert bool((counts == 2).all()), name


def test_too_much_is_refused_with_what_can_be(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"num_experts_per_tok = 2.*set it to 0\.66"):
        run(trained, tmp_path, examples, method="reap", remove="experts", sparsity=0.9)
    with pytest.raises(InputError, match=r"mamba_num_heads = 4 at least 2 must stay"):
        run(trained, tmp_path, examples, method="random", remove="heads", sparsity=0.9)


def test_a_killed_run_goes_on(
    trained: Path, examples: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third round breaks off: the second's checkpoint is where it goes on, and it ends as an
    undisturbed one."""
    from updater.compress import rounds

    asked = {"method": "obd", "sparsity": 0.6, "rounds": 3}
    whole, _ = run(trained, tmp_path / "whole", examples, **asked)
    made: list[str] = []
    zero = rounds.smaller.zero

    def break_off(base: Path, masks: Any, target: Path) -> Path:
        if target.name == "round-3" and not made[2:]:
            made.append("broken")
            raise KeyboardInterrupt
        made.append(target.name)
        return zero(base, masks, target)

    monkeypatch.setattr(rounds.smaller, "zero", break_off)
    with pytest.raises(KeyboardInterrupt):
        run(trained, tmp_path / "cut", examples, **asked)
    again, _ = run(trained, tmp_path / "cut", examples, **asked)
    assert made == ["round-1", "round-2", "broken", "round-3"]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_every_criterion_can_be_asked_for() -> None:
    assert CRITERIA.keys() <= PRUNINGS.keys()
    dampened = {method for method, pruning in PRUNINGS.items() if pruning.dampened}
    assert dampened == {name for name, one in CRITERIA.items() if one.curvature is not None}
    for method, pruning in PRUNINGS.items():
        for remove in pruning.removes:
            dataclasses.replace(CompressionSettings(), method=method, remove=remove)


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "nvfp4"])
def test_what_is_left_is_quantized(
    trained: Path, examples: Encoded, language: Any, tmp_path: Path, scheme: str
) -> None:
    asked = {"method": "reap", "remove": "experts", "sparsity": 0.5, "quantize": scheme}
    asked["keep"] = ("*.experts.*",)  # of 16 columns, where groups have 32
    folder, found = run(trained, tmp_path, examples, **asked)
    assert fields(folder)["n_routed_experts"] == 3
    assert "quantization_config" in fields(folder)
    assert found.num_bytes < 0.9 * found.base_bytes
    model, tokenizer = checkpoint.load(folder, quantized=True)
    said = outcomes(model, tokenizer, language(500, 40), batch_size=16, max_length_tokens=64)
    assert said.num_rows == 40


def test_inputs_are_quantized_where_it_is_asked_for(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    told = {}
    for inputs in (False, True):
        asked = {"quantize": "nvfp4", "quantize_inputs": inputs, "keep": ("*.experts.*",)}
        folder, _ = run(trained, tmp_path / str(inputs), examples, **asked)
        packed = checkpoint.check(folder, quantized=True).packed.values()
        assert {one.inputs for one in packed} == {inputs}
        told[inputs] = fields(folder)["quantization_config"]["quant_algo"]
    assert told == {False: "W4A16_NVFP4", True: "NVFP4"}


def test_a_quantized_checkpoint_is_not_compressed(
    trained: Path, examples: Encoded, tmp_path: Path
) -> None:
    once, _ = run(trained, tmp_path / "once", examples, quantize="int8", keep=("*.experts.*",))
    with pytest.raises(InputError, match=r"quantised ones have no room"):
        run(once, tmp_path / "twice", examples, method="magnitude")
