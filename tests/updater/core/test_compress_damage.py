"""Losses without parts: a part is silent, and afterwards all is bit for bit what it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.damage import masks
from compression.parts import Member
from updater.compress.damage import Outgoing, damage, losses, outgoing
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.nemotron.layout import released_form
from updater.nemotron.parts import listed
from updater.nemotron.sparsity import KINDS
from updater.nemotron.weights import released
from updater.train.encode import Encoded, encode
from updater.train.importance import batches
from updater.train.likelihood import negative_log_likelihood

QUIET = {"batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def case(trained: Path, language: Any) -> tuple[Any, Encoded]:
    model, tokenizer = checkpoint.load(trained, device="cpu")
    return model, encode(tokenizer, language(0, 8), max_length_tokens=64)


def all_parts(model: Any, kind: str, *, attention: bool = True) -> list[Outgoing]:
    fields = released_form(model.config.to_dict())
    sizes = {name: tensor.shape[0] for name, tensor in released(model)}
    parts = listed(fields, kind, head=False, attention=attention, where="config.json")
    return [one for some in parts for one in outgoing(some, sizes)]


@torch.no_grad()
def loss(model: Any, examples: Encoded) -> float:
    total = sum(negative_log_likelihood(model, b)[0].sum() for b in batches(model, examples, 1))
    return float(total) / int(examples.completion_lengths.sum())


def test_there_are_all_parts_that_may_go(case: tuple[Any, Encoded]) -> None:
    """ME*-E: 4 Mamba heads; 6 experts of 16 neurons and a shared one of 32 in two layers, a dense
    MLP of 32; attention as a layer alone, where it may go."""
    model, _ = case
    counts = {kind: sum(one.num_parts for one in all_parts(model, kind)) for kind in KINDS}
    assert counts == {"neurons": 2 * (6 * 16 + 32) + 32, "experts": 12, "heads": 4, "layers": 5}
    assert len(all_parts(model, "layers", attention=False)) == 4
    (mixer,) = all_parts(model, "heads")
    assert [member.name for member in mixer.members] == ["backbone.layers.0.mixer.out_proj.weight"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_bit_for_bit_what_it_was(kind: str, case: tuple[Any, Encoded]) -> None:
    model, examples = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = all_parts(model, kind)
    num_parts = sum(one.num_parts for one in parts)
    kept = masks(num_parts, 4, 0.5, torch.Generator().manual_seed(0))
    found = losses(model, examples, parts, kept, **QUIET)
    assert found.dtype == torch.float64
    assert len(set(found.tolist())) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    whole = losses(model, examples, parts, torch.ones(1, num_parts, dtype=torch.bool), **QUIET)
    assert whole.item() == pytest.approx(loss(model, examples), rel=1e-5)
    assert torch.equal(found, losses(model, examples, parts, kept, **QUIET))


@pytest.fixture(scope="module")
def biased(
    micro: str, language: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Encoded]:
    """With latent projections, and biases wherever there may be some."""
    folder = tmp_path_factory.mktemp("biased")
    more = {"moe_latent_size": 24, "mlp_bias": True, "use_bias": True}
    (folder / "config.json").write_text(json.dumps(json.loads(Path(micro).read_text()) | more))
    texts = language(0, 50)["prompt"].to_pylist()
    target = folder / "checkpoint"
    checkpoint.create(str(folder / "config.json"), texts, target, vocabulary_size=300, seed=1)
    model, tokenizer = checkpoint.load(target, device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.5)
    return model, encode(tokenizer, language(0, 8), max_length_tokens=64)


@pytest.mark.parametrize("of", ["case", "biased"])
def test_without_all_layers_embeddings_alone_speak(of: str, request: pytest.FixtureRequest) -> None:
    model, examples = request.getfixturevalue(of)
    parts = all_parts(model, "layers")
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    found = losses(model, examples, parts, nothing, **QUIET).item()
    total = 0.0
    with torch.no_grad():
        for batch in batches(model, examples, 1):
            tokens = batch.tokens_bl[0]
            logits = model.lm_head(model.model.norm_f(model.model.embeddings(tokens)))
            chances = logits[:-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            total -= float(chances[batch.targets_bl[0, 1:]].sum())
    assert found == pytest.approx(total / int(examples.completion_lengths.sum()), rel=1e-4)


@pytest.mark.parametrize(("kind", "number"), [("neurons", 72), ("experts", 3), ("heads", 1)])
def test_one_part_is_silent(kind: str, number: int, case: tuple[Any, Encoded]) -> None:
    """Neuron 72 is number 8 of layer 1's expert 2: after 32 of the shared one and 2 times 16."""
    model, examples = case
    parts = all_parts(model, kind)
    kept = torch.ones(1, sum(one.num_parts for one in parts), dtype=torch.bool)
    kept[0, number] = False
    found = losses(model, examples, parts, kept, **QUIET).item()
    layer = model.model.layers
    weight, where = {
        "neurons": (layer[1].mixer.experts.down_proj, (2, slice(None), 8)),
        "experts": (layer[1].mixer.experts.down_proj, (3,)),
        "heads": (layer[0].mixer.out_proj.weight, (slice(None), slice(16, 32))),
    }[kind]
    with torch.no_grad():
        was = weight[where].clone()
        weight[where] = 0
        wanted = loss(model, examples)
        weight[where] = was
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found != pytest.approx(loss(model, examples), rel=1e-9)


def test_what_learning_needed_does_damage(case: tuple[Any, Encoded]) -> None:
    """The embeddings, routers and head stay: it is layers that have learnt. And it is the same
    again, by the seed."""
    asked = {"num_rounds": 24, "kept": 0.75, **QUIET}
    parts = all_parts(case[0], "layers")
    found = damage(*case, parts, seed=0, **asked)
    assert found.rise.shape == found.error.shape == (5,)
    assert float(found.rise.max()) > 3 * float(found.error[found.rise.argmax()])
    again, other = (damage(*case, parts, seed=seed, **asked) for seed in (0, 1))
    assert torch.equal(found.rise, again.rise)
    assert not torch.equal(found.rise, other.rise)


def test_an_error_on_the_way_leaves_the_model_as_it_was(case: tuple[Any, Encoded]) -> None:
    model, examples = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = model.lm_head.weight
    parts = all_parts(model, "experts")
    broken = [*parts, Outgoing("head", (Member.each("lm_head.weight", 0, len(head) + 1),))]
    none = torch.zeros(1, sum(one.num_parts for one in broken), dtype=torch.bool)
    with pytest.raises(ValueError, match=r"'lm_head\.weight' has \d+ entries there, and a part"):
        losses(model, examples, broken, none, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_parts_that_share_weights_get_them_back(case: tuple[Any, Encoded]) -> None:
    model, examples = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = [*all_parts(model, "layers"), *all_parts(model, "experts")]
    none = torch.zeros(1, sum(one.num_parts for one in parts), dtype=torch.bool)
    losses(model, examples, parts, none, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_can_t_be_is_refused(case: tuple[Any, Encoded]) -> None:
    model, examples = case
    parts = all_parts(model, "layers")
    with pytest.raises(ValueError, match=r"masks have shape \(3, 4\): must be \(rounds, 5\)"):
        losses(model, examples, parts, torch.ones(3, 4, dtype=torch.bool), **QUIET)
    with pytest.raises(ValueError, match="of 8 rounds 7 keep a part"):
        damage(model, examples, parts, num_rounds=8, kept=0.9, seed=0, **QUIET)
    none = Encoded(*(examples.tokens[:0],) * 4, too_long=("a", "b"))
    keep = torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(UpdateError, match="no example to look at: all 2 are longer"):
        losses(model, none, parts, keep, **QUIET)
    with torch.no_grad():
        was = model.lm_head.weight.clone()
        model.lm_head.weight.fill_(float("nan"))
        with pytest.raises(UpdateError, match="the loss of round 0 is no number"):
            losses(model, examples, parts, keep, **QUIET)
        model.lm_head.weight.copy_(was)
