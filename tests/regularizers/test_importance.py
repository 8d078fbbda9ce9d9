"""Importance: kept whole or not at all, refused when damaged, fair to rare experts."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from regularizers.formats import parts
from regularizers.importance import Importance, load, normalise_by_evidence, save


def made(**tensors):
    tensors = tensors or {"w": torch.rand(3, 4), "b": torch.rand(()), "e": torch.rand(2, 0, 3)}
    return Importance(tensors, "empirical", 256, "c" * 64, "d" * 64)


def test_load_gives_what_was_saved(tmp_path):
    whole = made()
    save(whole, tmp_path / "importance.safetensors")
    found = load(tmp_path / "importance.safetensors")
    assert dataclasses.replace(found, tensors={}) == dataclasses.replace(whole, tensors={})
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(found.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["importance.safetensors"]


def flip(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-5], lambda c: b"", lambda c: b"x" * 50, flip, lambda c: c[:20]]
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "importance.safetensors"
    save(made(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"importance\.safetensors is no importance, or damaged"):
        load(path)


def test_other_safetensors_are_refused_and_a_missing_file_is_missing(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.rand(2)}, path)
    with pytest.raises(ValueError, match="no importance"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "importance.safetensors"
    save(made(w=torch.ones(2)), path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(made(w=torch.zeros(2)), path)
    assert load(path).tensors["w"].tolist() == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_can_not_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"importance\.safetensors"):
        save(made(), tmp_path / "missing" / "importance.safetensors")


@pytest.mark.parametrize(
    "tensor",
    [torch.rand(2).double(), torch.tensor([-1.0]), torch.tensor([torch.nan, 1.0]).float()],
)
def test_refuses_what_is_no_importance(tensor):
    with pytest.raises(ValueError, match="importance of 'w'"):
        made(w=tensor)


def test_balanced_routing_changes_nothing():
    whole = made(experts=torch.rand(4, 2, 3), other=torch.rand(5))
    found = normalise_by_evidence(whole, {"experts": torch.tensor([7, 7, 7, 7])})
    assert torch.equal(found.tensors["experts"], whole.tensors["experts"])
    assert found.tensors["other"] is whole.tensors["other"]
    assert found.estimator == "empirical"


def test_experts_are_scaled_to_their_fair_share_by_hand():
    # 12 tokens over 4 experts: 3 each is fair. The last has no evidence: the mean of the others.
    fisher = torch.tensor([6.0, 3.0, 2.0, 0.0])[:, None, None].expand(4, 1, 2)
    found = normalise_by_evidence(made(e=fisher), {"e": torch.tensor([6, 3, 3, 0])}).tensors["e"]
    assert found[:, 0, 0].tolist() == [3.0, 3.0, 2.0, pytest.approx(8 / 3)]
    assert torch.equal(found[:, 0, 0], found[:, 0, 1])
    assert fisher[0, 0, 0] == 6


def test_routing_by_chance_gives_every_expert_the_same_importance():
    """Tokens' squared gradients of mean 1 land on experts in proportion 8 : 4 : 2 : 1; afterwards
    every expert has the mean of all, within 5 standard errors (false alarm below 1e-5)."""
    torch.manual_seed(0)
    expert = torch.multinomial(torch.tensor([8.0, 4.0, 2.0, 1.0]), 30_000, replacement=True)
    count = torch.bincount(expert, minlength=4)
    square = torch.distributions.Exponential(1.0).sample((30_000,))
    fisher = torch.zeros(4).index_add_(0, expert, square)[:, None, None]
    found = normalise_by_evidence(made(e=fisher), {"e": count}).tensors["e"].flatten()
    assert ((found / 7500 - 1).abs() < 5 / count.sqrt()).all()


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("f", torch.ones(4), "there is no importance"),
        ("flat", torch.ones(4), r"must be \(E, ., .\)"),
        ("e", torch.ones(3), r"must be \(E, ., .\)"),
        ("e", torch.tensor([1, -1, 1, 1]), "at least 0"),
        ("e", torch.zeros(4), "of one expert above 0"),
    ],
)
def test_refuses_evidence_that_does_not_fit(name, tokens, message):
    whole = made(e=torch.rand(4, 2, 3), flat=torch.rand(4, 2))
    with pytest.raises(ValueError, match=message):
        normalise_by_evidence(whole, {name: tokens})


@pytest.mark.parametrize("form", ["float32", "bfloat16", "factored"])
def test_every_format_is_loaded_as_it_was_saved(tmp_path, form):
    path = tmp_path / "importance.safetensors"
    whole_size = made(w=torch.rand(30, 40), e=torch.rand(2, 5, 6), b=torch.rand(3))
    kept = whole_size.in_format(form)
    save(kept, path)
    found = load(path)
    assert (found.format, found.num_bytes) == (form, kept.num_bytes)
    for name, weight in kept.tensors.items():
        for part, saved in zip(parts(found.tensors[name]), parts(weight), strict=True):
            assert torch.equal(part, saved)


def test_a_file_of_before_there_were_formats_is_loaded(tmp_path):
    path = tmp_path / "importance.safetensors"
    save(made(w=torch.ones(2)), path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["importance"])
    assert about.pop("format") == "float32"
    save_file({"w": torch.ones(2)}, path, {"importance": json.dumps(about)})
    assert load(path).format == "float32"


def test_only_what_is_whole_can_be_made_fair_and_a_format_is_what_it_says():
    small = made(e=torch.rand(4, 5, 6)).in_format("factored")
    with pytest.raises(ValueError, match="in factored can't be made fair"):
        normalise_by_evidence(small, {"e": torch.ones(4)})
    with pytest.raises(ValueError, match="'e' is factored: must be float32"):
        dataclasses.replace(small, format="float32")
    with pytest.raises(ValueError, match="format is 'int8'"):
        made().in_format("int8")
    with pytest.raises(ValueError, match="format is 'int8'"):
        dataclasses.replace(small, format="int8")
