"""A cut checkpoint says what the base says without those parts, to plain transformers too."""

import json
import re
import subprocess
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cutting import TOKENS, chosen, edited, lively, said
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHRMSNormGated

from updater.errors import InputError
from updater.nemotron import checkpoint, files, mtp, presets
from updater.nemotron.cuts import cut
from updater.nemotron.layout import mtp_shapes, resized, tensor_shapes
from updater.nemotron.parts import listed
from updater.nemotron.smaller import shrink, zero

FORMS: dict[str, dict[str, Any]] = {
    "nano": {},
    "super": {
        "moe_latent_size": 24,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "mlp_bias": True,
        "use_bias": True,
        "num_nextn_predict_layers": 1,
        "mtp_hybrid_override_pattern": "*E",
    },
}
NEURONS = {
    "intermediate_size": 21,
    "moe_shared_expert_intermediate_size": 19,
    "moe_intermediate_size": 8,
}
ALL = NEURONS | {"n_routed_experts": 4, "mamba_num_heads": 2, "num_hidden_layers": 4}


@pytest.fixture(scope="module", params=FORMS)
def whole(request: pytest.FixtureRequest, micro: str, tmp_path_factory: Any) -> Path:
    """A checkpoint folder of each form. Not to be written to."""
    fields = json.loads(Path(micro).read_text()) | FORMS[request.param]
    head = "num_nextn_predict_layers" in fields
    return lively(fields, tmp_path_factory.mktemp("whole") / "w", head=head)


def config(folder: Path) -> dict[str, Any]:
    return presets.read_config(folder / "config.json")


def gone(kept: Tensor) -> Tensor:
    return (~kept).nonzero()[:, 0]


def in_a_process_without_us(folder: Path, scratch: Path) -> Tensor:
    """Logits of plain transformers, with nothing in it mended."""
    asked, answers = scratch / "asked.safetensors", scratch / "answers.safetensors"
    save_file({"input_ids": TOKENS}, asked)
    driver = Path(__file__).with_name("plain_driver.py")
    command = [sys.executable, "-I", "-S", driver, sysconfig.get_path("purelib"), folder]
    done = subprocess.run(
        [*command, asked, answers], capture_output=True, text=True, check=False, cwd=scratch
    )
    assert done.returncode == 0, done.stderr
    return load_file(answers)["logits"]


def header_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: entry.shape for name, entry in checkpoint.check(folder).entries.items()}


def test_without_neurons_as_if_nothing_came_of_them(whole: Path, tmp_path: Path) -> None:
    kept = chosen(config(whole), NEURONS)

    def mute(tensors: dict[str, Tensor]) -> None:
        for mlp, mask in kept.items():
            tensors[f"{mlp}.down_proj.weight"][:, gone(mask)] = 0

    found = said(shrink(whole, kept, tmp_path / "smaller"))
    expected = said(edited(whole, tmp_path / "muted", mute))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - said(whole)).abs().max() > 0.01


def test_without_experts_as_if_they_were_never_chosen(whole: Path, tmp_path: Path) -> None:
    kept = chosen(config(whole), {"n_routed_experts": 4})

    def refuse(tensors: dict[str, Tensor]) -> None:
        for experts, mask in kept.items():
            gate = experts.removesuffix("experts") + "gate.e_score_correction_bias"
            tensors[gate][gone(mask)] = -1e4

    found = said(shrink(whole, kept, tmp_path / "smaller"))
    expected = said(edited(whole, tmp_path / "refused", refuse))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - said(whole)).abs().max() > 0.01


def test_without_heads_as_if_nothing_passed_their_gates(whole: Path, tmp_path: Path) -> None:
    """z of 0 lets nothing through. The norm then divides by root(S/G + eps), of S over the channels
    that stay and G of all in a group; the smaller one by root(S/g + eps), of g that stay, which is
    root(G/g) times root(S/G + eps g/G). So with the weights times root(G/g) they say the same of an
    epsilon of eps g/G, here half of it, and nearly the same of eps."""
    kept = chosen(config(whole), {"mamba_num_heads": 2})

    def shut(tensors: dict[str, Tensor]) -> None:
        for mixer, mask in kept.items():
            rows = mask.repeat_interleave(16).logical_not().nonzero()[:, 0]
            for name in ("in_proj.weight", "in_proj.bias"):
                if f"{mixer}.{name}" in tensors:
                    tensors[f"{mixer}.{name}"][rows] = 0

    def halve_epsilon(model: Any) -> None:
        norms = [m for m in model.modules() if isinstance(m, NemotronHRMSNormGated)]
        assert norms
        for norm in norms:
            norm.variance_epsilon /= 2

    found = said(shrink(whole, kept, tmp_path / "smaller"))
    muted = edited(whole, tmp_path / "shut", shut)
    torch.testing.assert_close(found, said(muted, halve_epsilon), rtol=0, atol=1e-5)
    weights = load_file(whole / files.SINGLE)
    lower = {f"{m}.norm.weight": weights[f"{m}.norm.weight"] / 2**0.5 for m in kept}
    without_it = said(shrink(whole, kept, tmp_path / "without-it", replaced=lower))
    apart, then = ((one - said(muted)).abs().max() for one in (found, without_it))
    assert apart < 0.01 * then  # measured: 0.014 and 4.1, 8.8
    assert (found - said(whole)).abs().max() > 0.01


def test_without_layers_as_if_they_added_nothing(whole: Path, tmp_path: Path) -> None:
    kept = {"backbone.layers": torch.tensor([True, False, True, False, True])}
    last = re.compile(r"backbone\.layers\.[13]\.mixer\.(.*down_proj|fc2_latent_proj)\.")

    def mute(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if last.match(name):
                tensor.zero_()

    smaller = shrink(whole, kept, tmp_path / "smaller")
    expected = said(edited(whole, tmp_path / "muted", mute))
    torch.testing.assert_close(said(smaller), expected, rtol=0, atol=1e-5)
    assert config(smaller)["hybrid_override_pattern"] == "M*E"
    before, after = (load_file(folder / files.SINGLE) for folder in (whole, smaller))
    gate = "mixer.gate.weight"
    assert torch.equal(after[f"backbone.layers.2.{gate}"], before[f"backbone.layers.4.{gate}"])


def test_all_at_once_the_files_are_of_the_new_sizes(whole: Path, tmp_path: Path) -> None:
    fields = config(whole)
    kept = chosen(fields, ALL)
    kept["backbone.layers"] = torch.tensor([True, True, True, True, False])
    smaller = shrink(whole, kept, tmp_path / "smaller")
    new = config(smaller)
    assert list(new) == list(fields)
    letters = zip(fields["hybrid_override_pattern"], kept["backbone.layers"], strict=True)
    pattern = {"hybrid_override_pattern": "".join(letter for letter, stays in letters if stays)}
    sizes = {name: size for name, size in ALL.items() if name in fields}
    assert new == fields | sizes | pattern
    shapes = tensor_shapes(new, where="") | mtp_shapes(new, where="")
    assert header_shapes(smaller) == shapes
    for path in whole.iterdir():
        if path.name not in ("config.json", files.SINGLE):
            assert (smaller / path.name).read_bytes() == path.read_bytes(), path.name
    model, _ = checkpoint.load(smaller)
    assert model(TOKENS).logits.isfinite().all()
    alone = in_a_process_without_us(smaller, tmp_path)
    torch.testing.assert_close(alone, said(smaller), rtol=0, atol=1e-5)


def test_one_kind_after_the_other_is_all_at_once(whole: Path, tmp_path: Path) -> None:
    kept = chosen(config(whole), ALL)
    at_once = shrink(whole, kept, tmp_path / "at-once")
    folder = whole
    for kind in ("neurons", "heads", "experts", "layers"):
        of_kind = {p.key: kept[p.key] for p in listed(config(folder), kind, where="")}
        folder = shrink(folder, of_kind, tmp_path / kind)
    for name in ("config.json", files.SINGLE):
        assert (folder / name).read_bytes() == (at_once / name).read_bytes()


def test_a_group_keeps_its_own_experts(whole: Path, tmp_path: Path) -> None:
    """Their numbers are new, their order and their groups are not."""
    kept = chosen(config(whole), {"n_routed_experts": 4})
    smaller = shrink(whole, kept, tmp_path / "smaller")
    before, after = (load_file(folder / files.SINGLE) for folder in (whole, smaller))
    for experts, mask in kept.items():
        for new, old in enumerate(mask.nonzero()[:, 0].tolist()):
            for name in ("up_proj.weight", "down_proj.weight"):
                old_one = before[f"{experts}.{old}.{name}"]
                assert torch.equal(after[f"{experts}.{new}.{name}"], old_one)
        gate = experts.removesuffix("experts") + "gate.weight"
        assert torch.equal(after[gate], before[gate][mask])


def test_nothing_gone_is_the_base_and_less_is_as_safetensors_writes_it(
    whole: Path, tmp_path: Path
) -> None:
    same = shrink(whole, {}, tmp_path / "same")
    assert (same / files.SINGLE).read_bytes() == (whole / files.SINGLE).read_bytes()
    smaller = shrink(whole, chosen(config(whole), NEURONS), tmp_path / "smaller")
    save_file(load_file(smaller / files.SINGLE), tmp_path / "theirs", {"format": "pt"})
    assert (smaller / files.SINGLE).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_release_keeps_its_form(release: Path, tmp_path: Path) -> None:
    """bfloat16, float32 routers, two shards, code and templates beside them, a head."""
    fields = config(release)
    sizes = NEURONS | {"n_routed_experts": 4, "mamba_num_heads": 2}
    kept = chosen(fields, sizes)
    smaller = shrink(release, kept, tmp_path / "smaller")
    before, after = checkpoint.check(release), checkpoint.check(smaller)
    assert list(before.headers) == list(after.headers)
    cutting = cut(fields, kept, before.entries, where="")
    for file, header in before.headers.items():
        names = [cutting.names[name] for name in header.entries if name in cutting.names]
        assert list(after.headers[file].entries) == names
        assert after.headers[file].metadata == header.metadata
        for name in header.entries.keys() & cutting.names.keys():
            assert after.entries[cutting.names[name]].dtype == header.entries[name].dtype
    index = json.loads((smaller / files.INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(e.num_bytes for e in after.entries.values())}
    skipped = {"config.json", files.INDEX, *before.headers}
    for path in release.rglob("*"):
        if path.is_file() and path.name not in skipped:
            assert (smaller / path.relative_to(release)).read_bytes() == path.read_bytes()
    assert config(smaller)["auto_map"] == fields["auto_map"]
    said(smaller)
    model, _ = checkpoint.load(smaller)
    mtp.attach(smaller, model)
    drafted = model.mtp(torch.randn(2, 7, 32), torch.randn(2, 7, 32))
    assert drafted.shape == (2, 7, 32)
    assert drafted.isfinite().all()


def test_a_shard_of_which_nothing_is_left_is_gone(whole: Path, tmp_path: Path) -> None:
    """A shard for each layer, and one for the rest."""
    sharded = tmp_path / "sharded"
    tensors = load_file(whole / files.SINGLE)
    edited(whole, sharded, lambda tensors: None)
    (sharded / files.SINGLE).unlink()
    where = {}
    for name in tensors:
        layer = re.match(r"backbone\.layers\.(\d)\.", name)
        where[name] = f"model-0000{int(layer[1]) + 1 if layer else 6}-of-00006.safetensors"
    for file in set(where.values()):
        save_file({n: t for n, t in tensors.items() if where[n] == file}, sharded / file)
    metadata = {"total_size": 1, "total_parameters": 1, "by": "hand"}
    (sharded / files.INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": where}))
    kept = {"backbone.layers": torch.tensor([True, False, True, False, True])}
    smaller = shrink(sharded, kept, tmp_path / "smaller")
    entries = checkpoint.check(smaller).entries
    assert sorted({entry.file for entry in entries.values()}) == [
        f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)
    ]
    assert sorted(p.name for p in smaller.glob("*.safetensors")) == files.weight_files(smaller)
    assert entries["backbone.layers.2.norm.weight"].file == "model-00003-of-00004.safetensors"
    numbers = sum(torch.Size(entry.shape).numel() for entry in entries.values())
    assert json.loads((smaller / files.INDEX).read_text())["metadata"] == {
        "total_size": 4 * numbers,
        "total_parameters": numbers,
        "by": "hand",
    }
    plain = shrink(whole, kept, tmp_path / "plain")
    assert torch.equal(said(smaller), said(plain))


def test_a_config_json_that_transformers_wrote_keeps_its_form(whole: Path, tmp_path: Path) -> None:
    theirs = edited(whole, tmp_path / "theirs", lambda tensors: None)
    presets.transformers_config(config(whole)).save_pretrained(theirs)
    written = json.loads((theirs / "config.json").read_text())
    assert "hybrid_override_pattern" not in written
    kept = chosen(config(whole), {"num_hidden_layers": 3})
    smaller = shrink(theirs, kept, tmp_path / "smaller")
    new = json.loads((smaller / "config.json").read_text())
    assert list(new) == list(written)
    stay = kept["backbone.layers"].nonzero()[:, 0].tolist()
    (changed,) = [name for name in new if new[name] != written[name]]
    assert new[changed] == [written[changed][n] for n in stay]
    assert torch.equal(said(smaller), said(shrink(whole, kept, tmp_path / "plain")))


class Given(Mapping[str, Tensor]):
    """Makes tensors when they are asked for, one at a time."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, list[str]()
        self.last: Callable[[], Tensor | None] = lambda: None

    def __getitem__(self, name: str) -> Tensor:
        assert self.last() is None, "the tensor before is still in memory"
        self.asked.append(name)
        made = self.tensors[name] * 2
        self.last = weakref.ref(made)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_what_replaces_is_cut_alike_and_asked_for_once(whole: Path, tmp_path: Path) -> None:
    kept = chosen(config(whole), ALL)
    given = Given({n: t for n, t in load_file(whole / files.SINGLE).items() if "in_proj" not in n})

    def double(tensors: dict[str, Tensor]) -> None:
        tensors |= {name: given.tensors[name] * 2 for name in given.tensors}

    found = shrink(whole, kept, tmp_path / "found", replaced=given)
    expected = shrink(edited(whole, tmp_path / "doubled", double), kept, tmp_path / "expected")
    assert (found / files.SINGLE).read_bytes() == (expected / files.SINGLE).read_bytes()
    cutting = cut(config(whole), kept, header_shapes(whole), where="")
    assert sorted(given.asked) == sorted(given.tensors.keys() & cutting.names.keys())
    with pytest.raises(InputError, match=r"replaced: 'x'.* has no such tensor"):
        shrink(whole, kept, tmp_path / "x", replaced={"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"replaces 'lm_head.weight'"):
        shrink(whole, kept, tmp_path / "x", replaced={"lm_head.weight": torch.ones(1)})


def test_until_it_is_whole_it_is_not_there(whole: Path, tmp_path: Path) -> None:
    class Lost(Given):
        def __getitem__(self, name: str) -> Tensor:
            if len(self.asked) == 5:
                raise OSError("lost")
            return super().__getitem__(name)

    kept = chosen(config(whole), NEURONS)
    target = tmp_path / "there" / "smaller"
    for stood in (False, True):
        with pytest.raises(OSError, match="lost"):
            shrink(whole, kept, target, replaced=Lost(load_file(whole / files.SINGLE)))
        assert [p.name for p in target.parent.iterdir()] == (["smaller"] if stood else [])
        shrink(whole, {}, target)
    assert (target / files.SINGLE).read_bytes() == (whole / files.SINGLE).read_bytes()


def test_what_config_json_can_t_say_is_refused(whole: Path, tmp_path: Path) -> None:
    fields, target = config(whole), tmp_path / "smaller"
    experts, mixer = "backbone.layers.1.mixer.experts", "backbone.layers.0.mixer"

    def refused(kept: dict[str, Tensor], match: str) -> None:
        with pytest.raises(InputError, match=match):
            shrink(whole, kept, target)

    count = fields["n_routed_experts"]
    half = chosen(fields, {"n_routed_experts": 4})
    refused({"backbone.layers.1.mixer.expert": half[experts]}, f"did you mean {experts}")
    refused({experts: half[experts]}, r"has nothing of 'backbone.layers.4.mixer.experts'.*one numb")
    every = torch.ones(count, dtype=torch.bool)
    refused(half | {experts: every}, f"4 of .*layers.4.* stay, and {count} of .*layers.1")
    heads = torch.tensor([True, True, False, False])
    refused({mixer: heads}, r"of the groups of 'backbone.layers.0.mixer' stay 2, 0")
    refused({mixer: torch.zeros(4, dtype=torch.bool)}, "at least 2 must stay")
    alone = {name: torch.arange(count) == 0 for name in half}
    match = "stay 1, 0" if "n_group" in fields else "at least 2 must stay"
    refused(alone, match)
    odd = chosen(fields, NEURONS | {"moe_intermediate_size": 12})
    refused(odd, "of moe_intermediate_size = 16 at least 8 must stay, and a multiple of 8")
    layers = {"backbone.layers": torch.zeros(5, dtype=torch.bool)}
    refused(layers, "of num_hidden_layers = 5 at least 1 must stay")
    layers = {"backbone.layers": torch.tensor([True, True, False, True, True])}
    refused(layers, r"none of the 1 attention layers stays.* at least one must")
    with pytest.raises(ValueError, match=r"is torch.bool \(3,\): must be bool \(4,\)"):
        shrink(whole, {mixer: heads[:3]}, target)
    assert not target.exists()


def test_a_layer_that_goes_needs_no_word_on_what_is_in_it(whole: Path, tmp_path: Path) -> None:
    fields = config(whole)
    kept = chosen(fields, {"n_routed_experts": 4})
    del kept["backbone.layers.4.mixer.experts"]
    kept |= {"backbone.layers": torch.tensor([True, True, True, True, False])}
    assert config(shrink(whole, kept, tmp_path / "smaller"))["n_routed_experts"] == 4
    kept = chosen(fields, {"mamba_num_heads": 2})
    kept |= {"backbone.layers": torch.tensor([False, True, True, True, True])}
    new = config(shrink(whole, kept, tmp_path / "without-mamba"))
    assert (new["hybrid_override_pattern"], new["mamba_num_heads"]) == ("E*-E", 2)
    said(tmp_path / "without-mamba")


def test_a_head_of_unknown_sizes_is_refused(release: Path, tmp_path: Path) -> None:
    fields = json.loads((release / "config.json").read_text())
    del fields["num_nextn_predict_layers"]
    (release / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="says nothing of a multi-token-prediction head"):
        shrink(release, {}, tmp_path / "smaller")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("nemotron-3-nano-4b", {"intermediate_size": 8000, "mamba_num_heads": 72}),
        (
            "nemotron-3-nano",
            {
                "moe_intermediate_size": 1296,
                "moe_shared_expert_intermediate_size": 2598,
                "n_routed_experts": 90,
                "mamba_num_heads": 48,
                "num_hidden_layers": 48,
            },
        ),
    ],
)
@pytest.mark.parametrize("head", [False, True])
def test_a_release_s_shapes_are_cut_to_those_of_the_new_config(
    name: str, sizes: dict[str, int], head: bool
) -> None:
    drafting = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*-"}
    if "n_routed_experts" in sizes:
        drafting["mtp_hybrid_override_pattern"] = "*E"
    fields = presets.config_fields(name, 131_072) | (drafting if head else {})
    shapes = tensor_shapes(fields, where="") | mtp_shapes(fields, where="")
    kept = chosen(fields, sizes)
    cutting = cut(fields, kept, shapes, where="")
    new = resized(fields, cutting.sizes, cutting.layers)
    assert new["num_hidden_layers"] == len(new["hybrid_override_pattern"])
    found = {cutting.names[n]: cutting.shape(n, shapes[n]) for n in shapes if n in cutting.names}
    assert found == tensor_shapes(new, where="") | mtp_shapes(new, where="")


def test_masked_weights_are_0_and_every_other_byte_is_the_base_s(
    release: Path, tmp_path: Path
) -> None:
    random = torch.Generator().manual_seed(2)
    contents = checkpoint.check(release)
    names = ["lm_head.weight", "backbone.layers.1.mixer.gate.weight", "mtp.layers.0.eh_proj.weight"]
    names += ["backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.A_log"]
    assert {contents.entries[name].file for name in names} == contents.headers.keys()
    masks = {n: torch.rand(contents.entries[n].shape, generator=random) > 0.3 for n in names}
    zeroed = zero(release, ((n, mask) for n, mask in masks.items()), tmp_path / "zeroed")
    for path in release.rglob("*"):
        if path.is_file() and path.name not in contents.headers:
            assert (zeroed / path.relative_to(release)).read_bytes() == path.read_bytes()
    for file, header in contents.headers.items():
        tensors = load_file(release / file)
        for name in tensors.keys() & masks.keys():
            tensors[name].masked_fill_(~masks[name], 0)
        save_file(tensors, tmp_path / "expected", header.metadata)
        assert (zeroed / file).read_bytes() == (tmp_path / "expected").read_bytes()
    checkpoint.check(zeroed)
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(contents.entries[names[0]].shape)):
        with pytest.raises(ValueError, match=r"the mask of lm_head.weight is torch.* must be bool"):
            zero(release, [(names[0], wrong)], tmp_path / "x")
    with pytest.raises(InputError, match=r"mask of 'x'. .*release: has no such tensor"):
        zero(release, [("x", masks[names[0]])], tmp_path / "x")
    assert not (tmp_path / "x").exists()
