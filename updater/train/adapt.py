"""What of a model is trained: all of it, or low-rank factors (LoRA) that are merged afterwards.

peft builds the factors inside the model (Hu et al. 2021, arXiv 2106.09685: W0 + alpha/r B A, with
B zero at the start). They are merged afterwards: a merged model is a plain one again, and what is
exported needs no peft and no adapter support of a serving stack, which for routed experts is rare
(vLLM #47088, TensorRT-LLM #12154). Where the weights are in shards each process has all factors,
and merges them into its rows. Called by `updater.train.fit`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch import Tensor, nn
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHExperts,
    NemotronHForCausalLM,
)

from regularizers.anchor import Regularizer
from regularizers.low_rank import Factors, under
from updater.nemotron.checkpoint import freeze_routers
from updater.nemotron.dtypes import released_dtype
from updater.nemotron.pieces import are_cut, put_on_top
from updater.nemotron.validate import Contents
from updater.settings import TrainingSettings

# Not out_proj and conv1d: Mamba's fused GPU kernel reads their weights past any adapter, and peft
# refuses them for this family. up_proj and down_proj are those of shared experts and plain MLPs,
# the latent ones Super's; in smaller models those are no Linear, and stay out.
LINEARS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "up_proj", "down_proj"}) | {
    "fc1_latent_proj",
    "fc2_latent_proj",
}
EXPERTS = ("experts.up_proj", "experts.down_proj")
_ADAPTER = "default"


@dataclass(frozen=True)
class Adaptation:
    """What is trained in a model. `weights`: its own parameters by their own names, frozen where
    there are `factors`: name -> what is trained on top. No factors: the weights themselves are."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Factors] = field(default_factory=dict)

    def hold(self, anchor: Regularizer) -> Regularizer:
        """The anchor, which knows full weights, as it pulls at what is trained."""
        return under(anchor, self.weights, self.factors) if self.factors else anchor


@contextmanager
def adapted(model: NemotronHForCausalLM, training: TrainingSettings) -> Iterator[Adaptation]:
    """In the block, what `training.adapt` says is trained, and nothing else takes a gradient.

    After it the model has its own parameters, names and gradient flags as before; LoRA's factors,
    drawn from `training.seed`, are merged into them, or are gone if the block raised.
    """
    if training.adapt == "full":
        yield Adaptation()
        return
    weights = dict(model.named_parameters())
    names = {id(weight): name for name, weight in weights.items()}
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(training.seed)
        tuner = LoraModel(model, _config(model, training), _ADAPTER)
    _in_float32(model)
    factors = dict(_factors(model, names))
    in_pieces = _put_on_pieces(model, names, factors)
    try:
        yield Adaptation(weights, factors)
        for name, part in factors.items():  # peft's own merging adds up no shards
            part.merge_into(weights[name])
    finally:
        for experts in in_pieces:
            put_on_top(experts, {})
        tuner.unload()
        for name, weight in weights.items():
            weight.requires_grad_(trained[name])


def freeze(model: NemotronHForCausalLM, training: TrainingSettings) -> None:
    """What this training leaves where it is takes no gradient from now on, and so has no
    importance."""
    if training.adapt == "lora":
        moves = {name for name, _ in _linears(model)}
        for name, weight in model.named_parameters():
            of_experts = training.lora_experts and name.endswith(EXPERTS)
            weight.requires_grad_(of_experts or name.removesuffix(".weight") in moves)
    elif not training.train_routers:
        freeze_routers(model)


def frozen_dtype(training: TrainingSettings, contents: Contents) -> torch.dtype:
    """Of the weights that are not trained themselves: under LoRA `resting_dtype`; else float32."""
    return resting_dtype(training, contents) if training.adapt == "lora" else torch.float32


def resting_dtype(training: TrainingSettings, contents: Contents) -> torch.dtype:
    """Of weights that take no gradient: bfloat16 where training is in mixed precision and they were
    released so, for then no digit is lost and no larger copy needed; else float32."""
    return resting(training, released_dtype(contents))


def resting(training: TrainingSettings, released: torch.dtype) -> torch.dtype:
    """The same of weights of which the dtype alone is known."""
    return released if training.precision == "bf16-mixed" else torch.float32


def _put_on_pieces(
    model: NemotronHForCausalLM, names: Mapping[int, str], factors: Mapping[str, Factors]
) -> set[NemotronHExperts]:
    """Experts that are gathered in pieces add their factors to those, and peft, which would add
    them to the whole stack, does not; these are returned."""
    found: dict[NemotronHExperts, dict[str, Factors]] = {}
    for module in model.modules():
        if isinstance(module, ParamWrapper) and are_cut(experts := _experts_of(module)):
            part = factors[names[id(module.get_param())]]
            found.setdefault(experts, {})[module.parameter_name] = part
            module.set_adapter([])  # and so they take no gradient
            part.a.requires_grad_()
            part.b.requires_grad_()
    for experts, on_top in found.items():
        put_on_top(experts, on_top)
    return set(found)


def _experts_of(module: ParamWrapper) -> NemotronHExperts:
    experts = module.get_base_layer()
    assert isinstance(experts, NemotronHExperts), "no other parameters are asked for"
    return experts


def _in_float32(model: NemotronHForCausalLM) -> None:
    """The factors are float32 over weights of any dtype, and so are their gradients and moments:
    at NVIDIA's learning rates a step is less than bfloat16 tells apart. peft does so for its own
    `PeftModel` alone. Their inputs stay as they are, for autocast brings both to its dtype."""
    cast_adapter_dtype(model, _ADAPTER)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def _config(model: NemotronHForCausalLM, training: TrainingSettings) -> LoraConfig:
    # peft warns where there are none, as in a dense model.
    has_experts = any(name.endswith(EXPERTS) for name, _ in model.named_parameters())
    experts = list(EXPERTS) if training.lora_experts and has_experts else None
    return LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        target_modules=[name for name, _ in _linears(model)],
        target_parameters=experts,
    )


def _linears(model: NemotronHForCausalLM) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in LINEARS:
            yield name, module


def _factors(
    model: NemotronHForCausalLM, names: Mapping[int, str]
) -> Iterator[tuple[str, Factors]]:
    """Name of a weight -> its factors, read out of peft's modules."""
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        num_experts = None
        if isinstance(module, ParamWrapper):
            num_experts, weight = module.num_experts, module.get_param()
        else:
            weight = module.get_base_layer().weight
        a, b = (module.get_parameter(f"lora_{side}.{_ADAPTER}.weight") for side in "AB")
        yield names[id(weight)], Factors(a, b, module.scaling[_ADAPTER], num_experts)
