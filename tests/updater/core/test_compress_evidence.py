"""Evidence of one forward pass, beside each module's inputs computed again, token by token."""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from compression import rebuilding
from compression.mlp import Mlp
from updater.compress.evidence import Gathered, _Seen, gather
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.nemotron.weights import released
from updater.train.encode import Encoded, encode

SHAPES = ["nemotron-3-tiny", "micro", "latent"]


def made(architecture: str, folder: Path, table: pa.Table) -> tuple[Any, Encoded]:
    """The model with random weights, its norms and correction biases too, and the examples."""
    texts = [row["prompt"] + row["completion"] for row in table.to_pylist()]
    where = checkpoint.create(architecture, texts * 4, folder, vocabulary_size=300, seed=3)
    model, tokenizer = checkpoint.load(where, device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(torch.randn(len(tensor)) / 4)
    return model, encode(tokenizer, table, max_length_tokens=64)


@pytest.fixture(params=SHAPES, scope="module")
def case(
    request: Any, micro: str, language: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Encoded]:
    folder = tmp_path_factory.mktemp("evidence")
    architecture = request.param
    if architecture != "nemotron-3-tiny":
        fields = json.loads(Path(micro).read_text())
        if architecture == "latent":
            fields |= {"moe_latent_size": 24, "mlp_bias": True, "use_bias": True}
        (folder / "config.json").write_text(json.dumps(fields))
        architecture = str(folder / "config.json")
    return made(architecture, folder / "checkpoint", language(0, 7))


def found(case: tuple[Any, Encoded], **asked: Any) -> Gathered:
    return gather(*case, batch_size=asked.pop("batch_size", 3), progress=False, **asked)


def hooks(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


class Brute:
    """One example at a time through the blocks, whose parts are computed by the formulas."""

    def __init__(self, model: Any, examples: Encoded) -> None:
        self.inputs: dict[str, list[torch.Tensor]] = {}
        self.said: dict[tuple[int, int], list[float]] = {}
        self._weights = dict(released(model))
        with torch.no_grad():
            for start, end in itertools.pairwise(examples.starts):
                self._pass(model, torch.from_numpy(examples.tokens[start:end].astype("int64")))

    def _pass(self, model: Any, tokens: torch.Tensor) -> None:
        computed = {
            "linear_attention": self._mamba,
            "full_attention": self._attention,
            "mlp": self._mlp,
            "moe": self._moe,
        }
        hidden = model.model.embeddings(tokens[None])
        for index, layer in enumerate(model.model.layers):
            given = layer.norm(hidden)[0]
            computed[layer.block_type](f"backbone.layers.{index}.mixer", layer.mixer, given)
            hidden = layer(hidden)
        last = model.model.norm_f(hidden)[0]
        torch.testing.assert_close(last, model.model(tokens[None]).last_hidden_state[0])
        self._note("lm_head", last)

    def _note(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        self.inputs.setdefault(f"{name}.weight", []).append(inputs)
        return functional.linear(
            inputs, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        )

    def _mamba(self, name: str, mixer: Any, given: torch.Tensor) -> None:
        """The scan itself is transformers': what its gated norm says is what comes to out_proj."""
        self._note(f"{name}.in_proj", given)
        caught = []
        handle = mixer.norm.register_forward_hook(lambda *a: caught.append(a[2][0]))
        mixer(given[None])
        handle.remove()
        self._note(f"{name}.out_proj", caught[0])

    def _attention(self, name: str, mixer: Any, given: torch.Tensor) -> None:
        q, k, v = (
            self._note(f"{name}.{one}_proj", given).unflatten(-1, (-1, mixer.head_dim))
            for one in "qkv"
        )
        k, v = (one.repeat_interleave(mixer.num_key_value_groups, 1) for one in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * mixer.head_dim**-0.5
        scores += torch.full(scores.shape[1:], -torch.inf).triu(1)
        self._note(f"{name}.o_proj", torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1))

    def _mlp(self, name: str, _mixer: Any, given: torch.Tensor) -> torch.Tensor:
        return self._note(f"{name}.down_proj", self._note(f"{name}.up_proj", given).relu() ** 2)

    def _moe(self, name: str, mixer: Any, given: torch.Tensor) -> None:
        self._mlp(f"{name}.shared_experts", None, given)
        chances = self._note(f"{name}.gate", given).sigmoid()
        bias = self._weights[f"{name}.gate.e_score_correction_bias"]
        small = given
        if f"{name}.fc1_latent_proj.weight" in self._weights:
            small = self._note(f"{name}.fc1_latent_proj", given)
        summed = torch.zeros_like(small)
        for token, chance in enumerate(chances):
            chosen = (chance + bias).topk(mixer.gate.top_k).indices
            gates = chance[chosen] / chance[chosen].sum() * mixer.gate.routed_scaling_factor
            for expert, gate in zip(chosen.tolist(), gates, strict=True):
                answer = self._mlp(f"{name}.experts.{expert}", None, small[token][None])[0]
                summed[token] += gate * answer
                key = (int(name.split(".")[2]), expert)
                self.said.setdefault(key, []).append(float(gate * answer.norm()))
        if f"{name}.fc2_latent_proj.weight" in self._weights:
            self._note(f"{name}.fc2_latent_proj", summed)


@pytest.fixture(scope="module")
def brute(case: tuple[Any, Encoded]) -> Brute:
    return Brute(*case)


def test_every_matrix_has_the_norms_of_its_inputs(case: tuple[Any, Encoded], brute: Brute) -> None:
    gathered = found(case)
    matrices = {name for name, tensor in released(case[0]) if tensor.ndim == 2}
    assert gathered.input_norms.keys() == matrices - {"backbone.embeddings.weight"}
    for name, norms in gathered.input_norms.items():
        inputs = torch.cat(brute.inputs.get(name, [torch.zeros(0, len(norms))])).double()
        assert gathered.num_tokens[name] == len(inputs), name
        wanted = inputs.square().sum(0).sqrt()
        torch.testing.assert_close(norms.double(), wanted, rtol=1e-3, atol=1e-5, msg=name)
    assert any("experts.0.up_proj" in name for name in gathered.input_norms)


def test_experts_have_their_tokens_and_what_they_said(
    case: tuple[Any, Encoded], brute: Brute
) -> None:
    gathered = found(case)
    kinds = case[0].config.layers_block_type
    assert list(gathered.experts) == [n for n, kind in enumerate(kinds) if kind == "moe"]
    for layer, evidence in gathered.experts.items():
        each = [brute.said.get((layer, e), []) for e in range(len(evidence.tokens_e))]
        assert evidence.tokens_e.tolist() == [len(one) for one in each]
        wanted = torch.tensor([sum(one) for one in each], dtype=torch.float64)
        torch.testing.assert_close(evidence.said_e, wanted, rtol=1e-3, atol=1e-8)


def test_moments_are_kept_of_what_is_asked_for(case: tuple[Any, Encoded], brute: Brute) -> None:
    names = [n for n in found(case).input_norms if n.endswith("down_proj.weight")]
    names.append("backbone.layers.0.mixer.in_proj.weight")
    gathered = found(case, moments_of=names)
    assert gathered.moments.keys() == set(names)
    for name, moments in gathered.moments.items():
        inputs = brute.inputs.get(name)
        if inputs is None:
            assert not moments.any()
            continue
        rows = torch.cat(inputs).double()
        wanted = (rows.T @ rows / len(rows)).float()
        scale = float(wanted.abs().max())
        torch.testing.assert_close(moments, wanted, rtol=1e-3, atol=1e-4 * scale, msg=name)
        squares = gathered.input_norms[name].square() / len(rows)
        torch.testing.assert_close(moments.diagonal(), squares, rtol=1e-3, atol=1e-6 * scale)
    assert not found(case).moments


def test_moments_lie_on_the_host_wherever_the_weights_are() -> None:
    """The device "meta" stands for a GPU here, as far as it can."""
    seen = _Seen({"w"})
    seen.expect("w", torch.empty(3, 4, device="meta"))
    (moments,) = seen._moments.values()
    assert (moments.device.type, moments.shape) == ("cpu", (4, 4))


def test_batches_are_nothing_and_neither_is_how_experts_are_run(
    case: tuple[Any, Encoded],
) -> None:
    one = found(case, batch_size=1)
    as_it_was = case[0].config._experts_implementation
    try:
        case[0].config._experts_implementation = "eager"
        other = found(case, batch_size=100)
    finally:
        case[0].config._experts_implementation = as_it_was
    assert one.num_tokens == other.num_tokens
    for name, norms in one.input_norms.items():
        torch.testing.assert_close(other.input_norms[name], norms, rtol=1e-4, atol=1e-5, msg=name)
    for layer, evidence in one.experts.items():
        assert torch.equal(other.experts[layer].tokens_e, evidence.tokens_e)
        torch.testing.assert_close(other.experts[layer].reap(), evidence.reap(), rtol=1e-4, atol=0)


def test_the_model_is_what_it_was_and_no_gradient_is_asked_for(case: tuple[Any, Encoded]) -> None:
    model, _ = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    as_it_was = hooks(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", None)
        found(case)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert hooks(model) == as_it_was
    assert all(parameter.grad is None for parameter in model.parameters())


def test_neurons_that_repeat_others_are_folded_away(case: tuple[Any, Encoded]) -> None:
    """By the moments, the model says the same without them: half the shared expert's neurons are
    made twice the other half."""
    model, examples = case
    index = next(n for n, k in enumerate(model.config.layers_block_type) if k == "moe")
    shared = model.model.layers[index].mixer.shared_experts
    half = shared.up_proj.out_features // 2
    tokens = torch.from_numpy(examples.tokens[: examples.starts[1]].astype("int64"))[None]
    before = [p.detach().clone() for p in shared.parameters()]
    with torch.no_grad():
        shared.up_proj.weight[half:] = 2 * shared.up_proj.weight[:half]
        if shared.up_proj.bias is not None:
            shared.up_proj.bias[half:] = 2 * shared.up_proj.bias[:half]
        wanted = model(tokens).logits
        name = f"backbone.layers.{index}.mixer.shared_experts.down_proj.weight"
        moments = found(case, moments_of=[name]).moments[name]
        mlp = Mlp(shared.up_proj.weight, shared.down_proj.weight, shared.up_proj.bias)
        kept = torch.arange(2 * half) < half
        folded = rebuilding.fold(mlp, kept, moments, damping=1e-7)
        shared.down_proj.weight[:, half:] = 0
        cut = model(tokens).logits
        shared.down_proj.weight[:, :half] = folded.down
        again = model(tokens).logits
        for parameter, was in zip(shared.parameters(), before, strict=True):
            parameter.copy_(was)
    assert float((again - wanted).norm()) < 0.05 * float((cut - wanted).norm())


def test_what_can_t_be_is_refused(case: tuple[Any, Encoded]) -> None:
    as_it_was = hooks(case[0])
    with pytest.raises(ValueError, match=r"moments are asked for of 'lm_head', which is no"):
        found(case, moments_of=["lm_head"])
    assert hooks(case[0]) == as_it_was
    none = Encoded(*(case[1].tokens[:0],) * 4, too_long=("a", "b"))
    with pytest.raises(UpdateError, match="no example to look at: all 2 are longer"):
        gather(case[0], none, batch_size=2, progress=False)
    weight = case[0].model.layers[0].norm.weight
    with torch.no_grad():
        was = weight.clone()
        weight.fill_(float("inf"))
        with pytest.raises(UpdateError, match=r"is no number: the model has diverged"):
            found(case)
        weight.copy_(was)
