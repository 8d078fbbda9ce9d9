"""Checkpoint folders: made, loaded, exported."""

import filecmp
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer, NemotronHForCausalLM

from updater.errors import InputError
from updater.nemotron import checkpoint, files, tokenizer
from updater.nemotron.heads import has_head
from updater.nemotron.weights import released, stays_float32
from updater.settings import TrainingSettings
from updater.train.adapt import frozen_dtype
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_arguments_make_the_same_bytes(micro: str, base: Path, tmp_path: Path) -> None:
    texts = ["a bird", "two birds"] * 20
    for name in ("one", "two"):
        torch.manual_seed(hash(name) % 1000)
        checkpoint.create(micro, texts, tmp_path / name, vocabulary_size=300, seed=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = checkpoint.create(micro, texts, tmp_path / "two", vocabulary_size=300, seed=6)
    assert contents(tmp_path / "one") != contents(other)


def test_creating_leaves_the_random_numbers_of_others_alone(micro: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    checkpoint.create(micro, ["a few words"], tmp_path / "x", vocabulary_size=300, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_config_is_in_the_released_form(micro: str, tmp_path: Path) -> None:
    folder = checkpoint.create(
        "nemotron-3-tiny", ["a few words"], tmp_path / "x", vocabulary_size=300, seed=0
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["hybrid_override_pattern"].startswith("MEM*E")
    assert config["num_hidden_layers"] == len(config["hybrid_override_pattern"])
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 1, 2)
    assert not any(p.suffix in files.PICKLES for p in folder.iterdir())


def test_what_is_made_from_scratch_speaks_of_no_head(
    micro: str, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever serves it would look for its tensors."""
    head = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    architecture = tmp_path / "config.json"
    architecture.write_text(json.dumps(json.loads(Path(micro).read_text()) | head))
    checkpoint.create(str(architecture), ["a bird"], tmp_path / "x", vocabulary_size=300, seed=1)
    assert "none is made from scratch" in caplog.text
    assert not checkpoint.check(tmp_path / "x").config.get("num_nextn_predict_layers")
    assert not has_head(checkpoint.check(tmp_path / "x").config, None, where="x")


def test_transformers_reads_what_we_make(base: Path) -> None:
    ours, our_tokenizer = checkpoint.load(base)
    theirs = NemotronHForCausalLM.from_pretrained(base, local_files_only=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    again = AutoTokenizer.from_pretrained(base, local_files_only=True)
    assert again("leaf 7\nColour:")["input_ids"] == our_tokenizer("leaf 7\nColour:")["input_ids"]
    assert (our_tokenizer.pad_token_id, our_tokenizer.eos_token_id) == (0, 2)


def test_a_folder_that_transformers_has_written_is_a_checkpoint(base: Path, tmp_path: Path) -> None:
    model, _ = checkpoint.load(base)
    model.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(base / name, tmp_path / "saved")
    assert "__float__" in (tmp_path / "saved" / "config.json").read_text()
    again, _ = checkpoint.load(tmp_path / "saved")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    tokens = torch.arange(5, 25)[None]
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    exported = checkpoint.export(again, tmp_path / "saved", tmp_path / "exported")
    assert contents(exported) == contents(tmp_path / "saved")


def test_cached_decoding_equals_the_full_forward_pass(base: Path) -> None:
    """As shipped, transformers clamps dt in prefill and not in decoding (#48989)."""
    model, _ = checkpoint.load(base)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "dt_bias"):
                module.dt_bias.fill_(-12.0)  # dt far below time_step_min: the clamp would bite
                module.in_proj.weight.mul_(0.1)
        tokens = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(0))
        full = model(tokens).logits
        cache = model(tokens[:, :12], use_cache=True).past_key_values
        steps = []
        for place in range(12, 20):
            step = model(tokens[:, place : place + 1], past_key_values=cache, use_cache=True)
            steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full[:, 12:], atol=2e-6, rtol=0)
    limits = {m.time_step_limit for m in model.modules() if hasattr(m, "time_step_limit")}
    assert limits == {(0.0, float("inf"))}


def test_a_small_dtype_spares_the_router_and_the_states_decay(base: Path) -> None:
    model, _ = checkpoint.load(base, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == (torch.float32 if stays_float32(name) else torch.bfloat16), name
    assert not model.training
    assert torch.isfinite(model(torch.tensor([[3, 4, 5]])).logits).all()


def test_an_export_of_what_was_loaded_is_the_base_byte_for_byte(
    release: Path, tmp_path: Path
) -> None:
    model, _ = checkpoint.load(release)
    exported = checkpoint.export(model, release, tmp_path / "export")
    assert contents(exported) == contents(release)


def test_an_export_differs_from_the_base_in_trained_weights_alone(
    release: Path, tmp_path: Path
) -> None:
    model, _ = checkpoint.load(release)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    exported = checkpoint.export(model, release, tmp_path / "export")
    for name, content in contents(release).items():
        if not name.endswith(".safetensors"):
            assert (exported / name).read_bytes() == content, name
    views = dict(released(model))
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        before, after = load_file(release / file), load_file(exported / file)
        assert list(before) == list(after)
        for name, tensor in after.items():
            assert tensor.dtype == before[name].dtype, name
            wanted = views.get(name, before[name]).to(tensor.dtype)
            assert torch.equal(tensor, wanted), name
    gate = checkpoint.check(exported).entries["backbone.layers.1.mixer.gate.weight"]
    assert gate.dtype == "F32"


def raw(folder: Path) -> dict[str, bytes]:
    """Each tensor's bytes as they lie in its file, under its name, and each file's header."""
    found = {}
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        found[path.name] = content[:start]
        for name, about in json.loads(content[8:start]).items():
            if name != "__metadata__":
                first, last = about["data_offsets"]
                found[name] = content[start + first : start + last]
    return found


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        # All but what is frozen, and experts, some of which may have had no token.
        ({"learning_rate": 1e-2}, ""),
        ({"adapt": "lora"}, r"mixer\.(shared_experts\.)?(q|k|v|o|in|up|down)_proj\.weight"),
        (
            {"adapt": "lora", "lora_experts": True, "precision": "bf16-mixed"},
            r"mixer\.(shared_experts\.|experts\.\d\.)?(q|k|v|o|in|up|down)_proj\.weight",
        ),
    ],
    ids=["full", "lora", "lora-experts"],
)
def test_what_an_update_did_not_touch_is_byte_identical(
    release: Path, language: Any, tmp_path: Path, changes: dict[str, Any], moving: str
) -> None:
    """After a training, in the shards of the released form; and no code in the folder is run."""
    training = TrainingSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 5e-2, **changes})
    dtype = frozen_dtype(training, checkpoint.check(release))
    model, tokens = checkpoint.load(release, dtype=dtype)
    fit(
        model,
        Lesson.of(tokens, language(0, 48), None, max_length_tokens=64),
        training=training,
        guards=Guards(),
        folder=tmp_path / "state",
        watch=Watch(progress=False),
    )
    exported = checkpoint.export(model, release, tmp_path / "export")
    before, after = raw(release), raw(exported)
    assert before.keys() == after.keys()
    moved = {name for name in before if before[name] != after[name]}
    assert not moved & {name for name in before if name.startswith("mtp.")}
    if moving:
        may = {name for name in before if re.search(moving, name) and name.startswith("backbone.")}
        must = {name for name in may if ".experts." not in name}
    else:
        frozen = re.compile(r"mtp\.|mixer\.gate\.|safetensors")
        may = {name for name in before if not frozen.search(name)}
        must = {name for name in may if ".experts." not in name}
    assert must <= moved <= may
    assert any(".experts." in name for name in moved) is any(".experts." in n for n in may)
    beside = {name: c for name, c in contents(release).items() if not name.endswith(".safetensors")}
    assert {"modeling_nemotron_h.py", "configuration_nemotron_h.py", files.INDEX} <= beside.keys()
    assert contents(exported).keys() == contents(release).keys()
    assert all((exported / name).read_bytes() == content for name, content in beside.items())


def test_pickles_stay_behind(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    model, _ = checkpoint.load(copy)
    assert not (checkpoint.export(model, copy, tmp_path / "x") / "pytorch_model.bin").exists()


def test_an_export_replaces_what_stood_there_and_clears_what_a_kill_left(
    base: Path, tmp_path: Path
) -> None:
    model, _ = checkpoint.load(base)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old.txt").write_text("old")
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "half").write_text("half")
    assert contents(checkpoint.export(model, base, tmp_path / "x")) == contents(base)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_export_to_a_full_disk_leaves_nothing(
    base: Path, tmp_path: Path, full_disk: Any
) -> None:
    model, _ = checkpoint.load(base)
    with full_disk(10_000), pytest.raises(OSError, match=r"could not be written|too large"):
        checkpoint.export(model, base, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_large_checkpoint_is_made_in_shards(
    micro: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_SHARD_BYTES", 50_000)
    texts = ["one bird", "two birds"] * 20
    folder = checkpoint.create(micro, texts, tmp_path / "x", vocabulary_size=300, seed=1)
    index = json.loads((folder / files.INDEX).read_text())
    names = files.weight_files(folder)
    assert len(names) > 2
    model, _ = checkpoint.load(folder)
    whole = sum(t.nbytes for t in model.state_dict().values())
    assert index["metadata"]["total_size"] == whole
    assert contents(checkpoint.export(model, folder, tmp_path / "y")) == contents(folder)


def test_another_models_base_is_refused(base: Path, micro: str, tmp_path: Path) -> None:
    texts = ["one bird", "two birds"] * 20
    other = checkpoint.create(micro, texts, tmp_path / "x", vocabulary_size=300, seed=1)
    model, _ = checkpoint.load(other)
    with pytest.raises(AssertionError, match="shape"):
        checkpoint.export(model, base, tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_frozen_routers_take_no_gradient(base: Path) -> None:
    model, tokens = checkpoint.load(base)[0], torch.tensor([[5, 6, 7, 8]])
    checkpoint.freeze_routers(model)
    model(tokens, labels=tokens).loss.backward()
    frozen = {n for n, p in model.named_parameters() if p.grad is None}
    assert frozen == {f"model.layers.{layer}.mixer.gate.weight" for layer in (1, 4)}


def test_a_given_tokenizer_is_taken_byte_for_byte(base: Path, micro: str, tmp_path: Path) -> None:
    made = checkpoint.create(
        micro, [], tmp_path / "x", vocabulary_size=9999, tokenizer=str(base), seed=1
    )
    same = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert filecmp.cmpfiles(base, made, same, shallow=False) == (same, [], [])
    config = json.loads((made / "config.json").read_text())
    assert config["vocab_size"] == json.loads((base / "config.json").read_text())["vocab_size"]


@given(text=st.text(max_size=40))
def test_every_text_survives_the_trained_tokenizer(base: Path, text: str) -> None:
    read = tokenizer.read(base)
    ids = read(text, add_special_tokens=False)["input_ids"]
    for special in ("<pad>", "<s>", "</s>"):
        if special in text:
            return
    assert read.decode(ids) == text


def test_a_tokenizer_needs_texts(micro: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text to train a tokenizer on"):
        checkpoint.create(micro, [], tmp_path / "x", vocabulary_size=300, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["missing", "broken", "no end"])
def test_a_bad_tokenizer_folder_is_refused(
    spoil: str, base: Path, micro: str, tmp_path: Path
) -> None:
    given_folder = tmp_path / "given"
    given_folder.mkdir()
    if spoil == "broken":
        (given_folder / "tokenizer.json").write_text("{}")
    if spoil == "no end":
        shutil.copy(base / "tokenizer.json", given_folder)
        (given_folder / "tokenizer_config.json").write_text("{}")
    message = {"missing": "not found", "broken": "tokenizers file", "no end": "end-of-sequence"}
    with pytest.raises(InputError, match=message[spoil]):
        checkpoint.create(
            micro, [], tmp_path / "x", vocabulary_size=300, tokenizer=str(given_folder), seed=0
        )
    assert not (tmp_path / "x").exists()
