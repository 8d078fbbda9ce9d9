"""A checkpoint folder, quantized: what is in it, what it says, and what it computes."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from updater.compress.quantize.activations import largest_inputs
from updater.compress.quantize.kept import choose
from updater.compress.quantize.pack import pack
from updater.compress.quantize.write import num_bytes, write
from updater.errors import InputError
from updater.evaluate import outcomes
from updater.nemotron import checkpoint, files, presets
from updater.nemotron.dtypes import load_as_served, released_dtype
from updater.nemotron.packed import stem
from updater.nemotron.quantised import CONFIG
from updater.nemotron.unpack import unpack
from updater.nemotron.weights import released
from updater.settings.compression import SCHEMES
from updater.verify import verify

IDS = torch.arange(5, 45).view(2, 20)
KEPT_LAYERS = ("layers.2.", "layers.4.", "layers.5.")


@pytest.fixture(scope="session")
def inputs(base: Path) -> dict[str, float]:
    return largest_inputs(checkpoint.load(base)[0], [IDS])


@pytest.fixture
def quantized(inputs: dict[str, float], tmp_path: Path) -> Callable[..., Path]:
    """`quantized(folder, scheme)`: it, quantized; fp8 with the inputs that it wants."""

    def make(folder: Path, scheme: str, **given: Any) -> Path:
        if scheme == "fp8":
            given = {"inputs": inputs} | given
        return write(folder, tmp_path / "quantized", scheme=scheme, **given)

    return make


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in files.weight_files(folder)
        for name, tensor in load_file(folder / file).items()
    }


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("which", ["base", "release"])
def test_it_computes_what_its_weights_stand_for(
    which: str, scheme: str, quantized: Any, request: pytest.FixtureRequest
) -> None:
    """Each of them exactly what the library makes of the pieces; of float32 and bfloat16, in one
    file and in shards, the experts too, that are a tensor each on the disk and one in memory."""
    folder = request.getfixturevalue(which)
    target = quantized(folder, scheme)
    contents = checkpoint.check(target, quantized=True)
    before, after = tensors(folder), tensors(target)
    names = choose(contents.config, (), where="").quantized
    assert contents.packed.keys() == names.keys()
    assert any(".experts.3." in name for name in names)
    loaded = dict(released(checkpoint.load(target, quantized=True)[0]))
    plain = dict(released(checkpoint.load(folder)[0]))
    for name, tensor in loaded.items():
        if name not in names:
            assert torch.equal(tensor, plain[name]), name
            continue
        packed = contents.packed[name]
        pieces = {p: after[f"{stem(name)}.{p}"] for p in packed.pieces()}
        assert torch.equal(tensor, unpack(packed, pieces))
        expected = pack(before[name], packed, where="")
        for piece in packed.numbers():
            same = pieces[piece].view(torch.uint8) if pieces[piece].ndim else pieces[piece]
            of = expected[piece].view(torch.uint8) if pieces[piece].ndim else expected[piece]
            assert torch.equal(same, of), piece
        assert not torch.equal(tensor, plain[name])
    logits = [checkpoint.load(f, quantized=True)[0](input_ids=IDS).logits for f in (folder, target)]
    assert 0 < (logits[0] - logits[1]).abs().max() < logits[0].abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_stays_has_its_bytes(scheme: str, release: Path, quantized: Any) -> None:
    target = quantized(release, scheme)
    before, after = tensors(release), tensors(target)
    names = checkpoint.check(target, quantized=True).packed
    stayed = before.keys() - names.keys()
    for name in stayed:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)), name
    told = ("conv1d", "gate", "norm", "A_log", ".D", "dt_bias", "embeddings", "lm_head", "mtp.")
    for part in (*told, *KEPT_LAYERS):
        assert any(part in name for name in stayed), part
        assert not any(part in name for name in names), part
    # Each piece is in the shard that its weight was in, and the index says so.
    index = json.loads((target / files.INDEX).read_text())
    where = json.loads((release / files.INDEX).read_text())["weight_map"]
    assert index["weight_map"].keys() == after.keys()
    for name, file in where.items():
        if name in names:
            pieces = (f"{stem(name)}.{piece}" for piece in names[name].pieces())
            assert {index["weight_map"][piece] for piece in pieces} == {file}
        else:
            assert index["weight_map"][name] == file
    total = sum(tensor.nbytes for tensor in after.values())
    assert index["metadata"] == {"total_size": total, "kind": "release"}
    assert num_bytes(target) == total
    changed = {files.INDEX, CONFIG, "config.json", *set(where.values())}
    said, now = digests(release), digests(target)
    assert {n: d for n, d in said.items() if n not in changed} == {
        n: d for n, d in now.items() if n not in changed
    }
    config = json.loads((target / "config.json").read_text())
    assert config.pop("quantization_config")
    assert config == json.loads((release / "config.json").read_text())
    with safe_open(target / "model-00001-of-00002.safetensors", "pt") as stream:
        assert stream.metadata() == {"format": "pt"}


def test_fewer_bits_take_fewer_bytes(release: Path, quantized: Any) -> None:
    taken = {scheme: num_bytes(quantized(release, scheme)) for scheme in SCHEMES}
    assert taken["nvfp4"] < taken["fp8"] < num_bytes(release)
    assert taken["int4"] < taken["int8"] < num_bytes(release)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_twice_gives_the_same_bytes(scheme: str, release: Path, quantized: Any) -> None:
    first = digests(quantized(release, scheme))
    assert digests(quantized(release, scheme)) == first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_asked_in_its_bases_dtype(
    dtype: torch.dtype, base: Path, release: Path, quantized: Any
) -> None:
    target = quantized(release if dtype == torch.bfloat16 else base, "nvfp4")
    assert released_dtype(checkpoint.check(target, quantized=True)) == dtype
    model, tokenizer = load_as_served(target, device="cpu")
    assert model.dtype == torch.float32
    assert len(tokenizer)
    halves, _ = checkpoint.load(target, dtype=torch.bfloat16, quantized=True)
    for name, tensor in halves.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].to(tensor.dtype)), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_not_trained_nor_quantized_again(scheme: str, base: Path, quantized: Any) -> None:
    target = quantized(base, scheme)
    rule = "an update trains weights in BF16, F16 or F32"
    for refused in (
        lambda: checkpoint.check(target),
        lambda: checkpoint.load(target),
        lambda: write(target, target.with_name("again"), scheme="int4"),
        lambda: checkpoint.export_tensors({}, target, target.with_name("again")),
    ):
        with pytest.raises(InputError, match=rule):
            refused()
    assert not target.with_name("again").exists()


def test_whole_numbers_are_told_as_compressed_tensors_are(base: Path, quantized: Any) -> None:
    config = json.loads((quantized(base, "int4") / "config.json").read_text())
    told = config["quantization_config"]
    assert (told["quant_method"], told["format"]) == ("compressed-tensors", "pack-quantized")
    weights = told["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 32, True)
    ignored = told["ignore"]
    assert "re:(.*[.])?lm_head$" in ignored
    assert "re:(.*[.])?layers[.]2[.]mixer[.]q_proj$" in ignored
    assert "re:(.*[.])?mtp[.].*$" in ignored
    assert not any("layers[.]0[.]mixer[.]in_proj" in name for name in ignored)


@pytest.mark.parametrize(
    ("scheme", "with_inputs", "algorithm"),
    [("fp8", True, "FP8"), ("nvfp4", True, "NVFP4"), ("nvfp4", False, "W4A16_NVFP4")],
)
def test_nvidias_forms_are_told_as_model_opt_does(
    scheme: str, with_inputs: bool, algorithm: str, base: Path, inputs: Any, quantized: Any
) -> None:
    target = quantized(base, scheme, inputs=inputs if with_inputs else None)
    told = json.loads((target / "config.json").read_text())["quantization_config"]
    beside = json.loads((target / CONFIG).read_text())["quantization"]
    assert told["quant_method"] == "modelopt"
    assert told["quant_algo"] == beside["quant_algo"] == algorithm
    assert told["ignore"] == beside["exclude_modules"]
    assert {"group_size", "kv_cache_quant_algo", "exclude_modules"} <= beside.keys() | (
        {"group_size"} if scheme == "fp8" else set()
    )
    expected = ["lm_head", "backbone.embeddings", "mtp*"]
    expected += [f"backbone.layers.2.mixer.{name}_proj" for name in "qkvo"]
    expected += [f"backbone.layers.4.mixer.{name}_proj" for name in ("in", "out")]
    expected += [f"backbone.layers.5.mixer.{name}_proj" for name in "qkvo"]
    expected += [f"backbone.layers.{layer}.mixer.conv1d" for layer in (0, 4)]
    expected += [f"backbone.layers.{layer}.mixer.gate" for layer in (1, 6)]
    assert told["ignore"] == expected
    scales = {n: t for n, t in tensors(target).items() if n.endswith(".input_scale")}
    assert bool(scales) == with_inputs
    end = 448 if scheme == "fp8" else 2688
    for name, scale in scales.items():
        largest = inputs[name.removesuffix(".input_scale")]
        assert scale.shape == ()
        assert scale.item() == pytest.approx(largest / end, rel=1e-6)


def test_the_recipe_keeps_what_nanos_release_does() -> None:
    """hf_quant_config.json of NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4, its exclude_modules."""
    fields = presets.config_fields("nemotron-3-nano", 131_072)
    expected = [
        f"backbone.layers.{layer}.mixer.{name}_proj"
        for mamba in (4, 11, 18, 25, 32, 41)
        for layer, names in ((mamba, ("in", "out")), (mamba + 1, tuple("qkvo")))
        for name in names
    ]
    assert sorted(choose(fields, (), where="").kept) == sorted(expected)


def test_latent_projections_stay() -> None:
    fields = presets.config_fields("nemotron-3-super", 131_072)
    choice = choose(fields, (), where="")
    assert "backbone.layers.1.mixer.fc1_latent_proj" in choice.kept
    assert "backbone.layers.1.mixer.shared_experts.up_proj.weight" in choice.quantized
    assert not any(name.startswith("mtp") for name in choice.quantized)


def test_more_can_be_kept(base: Path, quantized: Any) -> None:
    keep = ("backbone.layers.1.mixer.experts.*", "backbone.layers.0.mixer.in_proj")
    target = quantized(base, "nvfp4", keep=keep)
    names = checkpoint.check(target, quantized=True).packed
    assert not any("layers.1.mixer.experts" in name for name in names)
    assert "backbone.layers.1.mixer.shared_experts.up_proj.weight" in names
    assert "backbone.layers.0.mixer.in_proj.weight" not in names
    assert "backbone.layers.0.mixer.out_proj.weight" in names
    ignored = json.loads((target / CONFIG).read_text())["quantization"]["exclude_modules"]
    assert "backbone.layers.1.mixer.experts*" in ignored
    assert not any(".experts." in name for name in ignored)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheme": "int3"}, r"scheme 'int3'\. must be one of int8, .*did you mean int"),
        ({"scheme": "fp8", "group_size": 32, "inputs": {}}, "only int8 and int4 have groups"),
        ({"scheme": "int4", "group_size": 48}, "must be one of 128, 64, 32"),
        ({"scheme": "int4", "group_size": 128}, r"has 64 columns\. int4 takes groups of 128"),
        ({"scheme": "int8", "inputs": {}}, "only fp8 and nvfp4 quantize what comes in"),
        ({"scheme": "fp8"}, "fp8 without the largest inputs"),
        ({"scheme": "nvfp4", "inputs": {}}, r"largest input of .*in_proj is None"),
        ({"scheme": "int4", "keep": ["backbone.layers.9.*"]}, r"keep 'backbone\.layers\.9"),
        ({"scheme": "int4", "keep": ["lm_head"]}, "must name projections"),
        (
            {"scheme": "int4", "keep": ["backbone.layers.1.mixer.experts.0.*"]},
            r"quantized together or not at all\. keep backbone\.layers\.1\.mixer\.experts\.\*",
        ),
        ({"scheme": "int4", "keep": ["*"]}, "projections all stay as they are"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(given: Any, message: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write(base, tmp_path / "quantized", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("largest", [float("nan"), float("inf"), -1.0])
def test_inputs_must_be_numbers(largest: float, base: Path, inputs: Any, tmp_path: Path) -> None:
    name = "backbone.layers.0.mixer.out_proj"
    with pytest.raises(InputError, match=f"largest input of {name} is {largest}"):
        write(base, tmp_path / "q", scheme="fp8", inputs=inputs | {name: largest})


def narrow(base: Path, target: Path, width: int) -> Path:
    """The dense MLP of layer 3 with so many neurons, as a structured pruning leaves it."""
    shutil.copytree(base, target)
    weights = load_file(target / files.SINGLE)
    layer = "backbone.layers.3.mixer"
    weights[f"{layer}.up_proj.weight"] = weights[f"{layer}.up_proj.weight"][:width].clone()
    down = f"{layer}.down_proj.weight"
    weights[down] = weights[down][:, :width].clone()
    save_file(weights, target / files.SINGLE, {"format": "pt"})
    config = json.loads((target / "config.json").read_text()) | {"intermediate_size": width}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(("scheme", "size"), [("int8", 32), ("int4", 32), ("nvfp4", 16)])
def test_columns_that_no_group_divides_are_refused(
    scheme: str, size: int, base: Path, tmp_path: Path
) -> None:
    odd = narrow(base, tmp_path / "odd", 75)
    message = rf"layers\.3\.mixer\.down_proj has 75 columns\. {scheme} takes groups of {size}"
    with pytest.raises(InputError, match=message) as refused:
        write(odd, tmp_path / "quantized", scheme=scheme)
    assert 'compression.keep = ["*.down_proj"]' in refused.value.cure
    keep = ["backbone.layers.3.mixer.down_proj"]
    target = write(odd, tmp_path / "quantized", scheme=scheme, keep=keep)
    assert checkpoint.load(target, quantized=True)


def test_fp8_takes_any_shape(base: Path, inputs: Any, tmp_path: Path) -> None:
    odd = narrow(base, tmp_path / "odd", 75)
    target = write(odd, tmp_path / "quantized", scheme="fp8", inputs=inputs)
    assert checkpoint.load(target, quantized=True)


def test_the_largest_group_that_divides_all_is_taken(base: Path, tmp_path: Path) -> None:
    keep = ["*.experts.*"]  # of 32 columns
    target = write(base, tmp_path / "quantized", scheme="int4", keep=keep)
    assert {p.group for p in checkpoint.check(target, quantized=True).packed.values()} == {64}


def test_a_weight_that_is_not_finite_leaves_nothing(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / files.SINGLE)
    name = "backbone.layers.1.mixer.experts.2.up_proj.weight"
    weights[name][0, 0] = float("nan")
    save_file(weights, broken / files.SINGLE, {"format": "pt"})
    with pytest.raises(InputError, match=rf"{name}: holds values that are not finite"):
        write(broken, tmp_path / "quantized", scheme="int4")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("scheme", "piece", "broken", "message"),
    [
        ("int4", "weight_scale", None, "layers.0.mixer.in_proj"),
        ("int4", "weight_packed", torch.zeros(3, 3, dtype=torch.int32), "is I32 [3, 3]"),
        ("int4", "weight_shape", None, "weight_shape is not there"),
        ("fp8", "weight_scale", torch.ones(2), "weight_scale is F32 [2]"),
        ("nvfp4", "weight_scale_2", None, "weight_scale_2 is not there"),
        ("nvfp4", "weight", torch.zeros(3, 3, dtype=torch.uint8), "weight is U8 [3, 3]"),
    ],
)
def test_a_broken_one_is_told(
    scheme: str, piece: str, broken: Any, message: str, base: Path, quantized: Any
) -> None:
    target = quantized(base, scheme)
    weights = load_file(target / files.SINGLE)
    name = f"backbone.layers.0.mixer.in_proj.{piece}"
    del weights[name]
    save_file(
        weights if broken is None else weights | {name: broken},
        target / files.SINGLE,
        {"format": "pt"},
    )
    with pytest.raises(InputError) as refused:
        checkpoint.check(target, quantized=True)
    assert message in str(refused.value)


def test_largest_inputs_are_what_hooks_see_one_by_one(base: Path, inputs: Any) -> None:
    """Of the experts against transformers' loop over them, one product at a time."""
    model, _ = checkpoint.load(base)
    seen: dict[str, float] = {}
    layer = model.model.layers[1].mixer
    with torch.no_grad():
        handle = layer.experts.register_forward_pre_hook(
            lambda module, given: seen.update(given=given)
        )
        model(input_ids=IDS, use_cache=False)
        handle.remove()
        hidden, index, _ = seen["given"]  # type: ignore[misc]
        inner = 0.0
        for expert in index.unique().tolist():
            tokens = hidden[(index == expert).any(1)]
            up = torch.nn.functional.linear(tokens, layer.experts.up_proj[expert]).relu() ** 2
            inner = max(inner, float(up.max()))
    name = "backbone.layers.1.mixer.experts"
    for expert in range(4):
        assert inputs[f"{name}.{expert}.up_proj"] == float(hidden.abs().max())
        assert inputs[f"{name}.{expert}.down_proj"] == pytest.approx(inner, rel=1e-5)
    wanted = choose(checkpoint.check(base).config, (), where="").quantized
    assert {stem(name) for name in wanted} <= inputs.keys()


PLAIN = """
import json, sys
sys.modules["torchvision"] = None  # as tests/updater/core/plain_driver.py
import torch
from transformers import AutoModelForCausalLM
folder, ids = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.tensor(ids)).logits, sys.argv[3])
"""


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_plain_transformers_loads_whole_numbers(
    scheme: str, dense: Path, quantized: Any, tmp_path: Path
) -> None:
    """By compressed-tensors, in a process without us. Of a model without experts: those of one
    with are a single tensor in transformers 5, into which it loads no quantized ones."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    target = quantized(dense, scheme)
    answers = tmp_path / "logits.pt"
    command = [sys.executable, "-c", PLAIN, str(target), json.dumps(IDS.tolist()), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        said = checkpoint.load(target, quantized=True)[0](input_ids=IDS).logits
        unquantized = checkpoint.load(dense)[0](input_ids=IDS).logits
    found = torch.load(answers)
    assert (found - said).abs().max() < 0.1 * (found - unquantized).abs().max()


def test_a_clean_process_finds_what_was_judged(release: Path, quantized: Any) -> None:
    """`updater.verify`, as before a version may be deployed."""
    target = quantized(release, "nvfp4")
    model, tokenizer = load_as_served(target, device="cpu")
    holdout = pa.table(
        {
            "id": [f"e{n}" for n in range(6)],
            "prompt": [f"example {n} of" for n in range(6)],
            "completion": [" a text"] * 6,
        }
    )
    judged = outcomes(model, tokenizer, holdout, batch_size=4, max_length_tokens=64)
    scratch = target.parent
    pq.write_table(holdout, scratch / "holdout.parquet")
    pq.write_table(judged, scratch / "outcomes.parquet")
    case = {
        "period": "2026-01",
        "holdout": str(scratch / "holdout.parquet"),
        "outcomes": str(scratch / "outcomes.parquet"),
    }
    asked = {"max_length_tokens": 64, "batch_size": 4, "num_examples": 6, "cases": [case]}
    (scratch / "cases.json").write_text(json.dumps(asked))
    assert verify(target, scratch / "cases.json")[0] == 6
