"""What a checkpoint shows of itself: its weights one by one, and what is known of each.

The model is loaded when something has to be asked of it, and let go of afterwards. Called by the
choosers of this package.
"""

import gc
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from compression.experts import ExpertEvidence
from compression.saliency import CRITERIA, Evidence
from regularizers import importance
from updater.compress.curvature import Curvature
from updater.compress.damage import damage, outgoing
from updater.compress.evidence import Gathered, gather
from updater.compress.matrices import is_prunable, prunable
from updater.compress.quantize.activations import largest_inputs
from updater.nemotron import checkpoint, mtp
from updater.nemotron.parts import Parts
from updater.nemotron.weights import released
from updater.settings import CompressionSettings
from updater.train.encode import Encoded
from updater.train.importance import batches, estimate, spread

T = TypeVar("T")

BATCH = 32
"""Examples of one length that go forward together."""

KEPT = 0.9
"""With what chance a part stays in a round of random masks: so many go at once that each round
tells of many, and so few that the model still says something. Chosen, not measured."""


@dataclass(frozen=True)
class Shown:
    """What a method may look at.

    `estimator`: of the Fisher, where it has to be estimated anew; `precision` and
    `activation_checkpointing` of its passes, as of a training. `fisher`: a file of the Fisher of
    the weights before anything is taken away. `examples`: of what was learnt; None for methods that
    need none.
    """

    estimator: str
    seed: int
    progress: bool = False
    precision: str = "32-true"
    activation_checkpointing: bool = False
    fisher: Path | None = None
    examples: Encoded | None = None


class Looking:
    """At one folder, by one method."""

    def __init__(self, folder: Path, settings: CompressionSettings, shown: Shown) -> None:
        self.folder, self.settings, self._shown = folder, settings, shown
        self.contents = checkpoint.check(folder)

    @property
    def where(self) -> str:
        """What an error message calls config.json."""
        return str(self.folder / "config.json")

    @cached_property
    def has_head(self) -> bool:
        """Whether there is a multi-token-prediction head, whose sizes are the backbone's."""
        return mtp.has_head(self.folder)

    def weight(self, name: str) -> Tensor:
        """The tensor of that released name, as it lies in the folder, on the CPU."""
        with safe_open(self.folder / self.contents.entries[name].file, framework="pt") as stream:
            tensor: Tensor = stream.get_tensor(name)
        return tensor

    def known(self, name: str) -> Evidence | None:
        """What the settings' method has to know of that weight; None where its look tells nothing
        of it, as of a router that is not trained."""
        looks = self.settings.looks
        if looks == "forward":
            return Evidence(input_norms=self.gathered.input_norms[name])
        if not looks:
            return Evidence(generator=self.generator(name))
        curved = self._curved(name)
        if curved is None or not is_prunable(name):
            return curved
        return curved._replace(damping=self._damping)

    def generator(self, name: str) -> torch.Generator:
        """Of numbers that are the same at each look at a thing of that name."""
        said = f"{self._shown.seed} {name}".encode()
        number = int.from_bytes(hashlib.sha256(said).digest()[:8], "big")
        return torch.Generator().manual_seed(number >> 1)

    @cached_property
    def gathered(self) -> Gathered:
        """The evidence of a forward pass."""
        return self._gather(())

    def experts(self, key: str) -> ExpertEvidence:
        """Of the backbone's routed experts of that `Parts.key`."""
        layer = int(key.removeprefix("backbone.layers.").split(".")[0])
        return self.gathered.experts[layer]

    @cached_property
    def moments(self) -> Mapping[str, Tensor]:
        """Of the inputs of every MLP's outgoing weights (`Gathered.moments`), all at once in the
        host's memory: of each MLP of n neurons 4 n^2 bytes, of Nano's experts 41 GB. And what is
        made of them takes time: `rebuilding.costs` 13 s for each 1,856 neurons on one core, some
        10 hours for all of Nano's 2,944 experts."""
        names = [
            name
            for name in self.contents.entries
            if name.startswith("backbone.") and name.endswith(".down_proj.weight")
        ]
        return self._gather(names).moments

    def damage(self, parts: Sequence[Parts]) -> dict[str, Tensor]:
        """By `Parts.key`, float64 (count,): what the loss rises by without each part, in nats a
        completion token; infinite of those that may not go."""

        def asked(model: NemotronHForCausalLM) -> dict[str, Tensor]:
            sizes = {name: tensor.shape[0] for name, tensor in released(model)}
            lying = [one for some in parts for one in outgoing(some, sizes)]
            found = damage(
                model,
                self._examples,
                lying,
                num_rounds=self.settings.damage_rounds,
                kept=KEPT,
                seed=self._shown.seed,
                batch_size=BATCH,
                progress=self._shown.progress,
            )
            going = {some.key: some.count - len(some.fixed) for some in parts}
            of_each = found.scores().double().split(list(going.values()))
            told = {}
            for some, scores in zip(parts, of_each, strict=True):
                told[some.key] = torch.full((some.count,), math.inf, dtype=torch.float64)
                told[some.key][some.free] = scores
            return told

        return self._of_model(asked)

    def largest_inputs(self) -> dict[str, float]:
        """Of each module, the largest absolute value that comes into it."""
        return self._of_model(
            lambda model: largest_inputs(
                model, (batch.tokens_bl for batch in batches(model, self._examples, BATCH))
            )
        )

    def _curved(self, name: str) -> Evidence | None:
        """The curvature at that weight, undamped."""
        if self.settings.looks == "fisher":
            return Evidence(fisher=self._fisher[name]) if name in self._fisher else None
        mean, sd = self._spread
        return Evidence(fisher=mean[name], fisher_sd=sd[name]) if name in mean else None

    @cached_property
    def _damping(self) -> float:
        """What is added to the curvature of each weight of a matrix: `compression.damping` times
        its mean over the matrices of the layers. To nothing else: how far a norm's weight or a
        time step is from 0 says nothing of what it costs to go."""
        curvature = CRITERIA[self.settings.method].curvature
        if curvature is None or not self.settings.damping:
            return 0.0
        total, number = 0.0, 0
        for name in prunable(self.contents.entries, attention=self.settings.attention):
            if (curved := self._curved(name)) is not None:
                found = curvature(curved)
                total += float(found.sum(dtype=torch.float64))
                number += found.numel()
        return self.settings.damping * total / number

    @property
    def _examples(self) -> Encoded:
        assert self._shown.examples is not None, "a method that looks is shown examples"
        return self._shown.examples

    def _gather(self, moments_of: Collection[str]) -> Gathered:
        return self._of_model(
            lambda model: gather(
                model,
                self._examples,
                batch_size=BATCH,
                moments_of=moments_of,
                progress=self._shown.progress,
            )
        )

    @cached_property
    def _fisher(self) -> Curvature:
        if self._shown.fisher is not None:
            known = importance.load(self._shown.fisher)
            return Curvature(known.tensors, known.tokens)
        found = self._of_model(
            lambda model: estimate(
                model,
                self._examples,
                estimator=self._shown.estimator,
                checkpoint_digest="",
                data_digest="",
                **self._passes,
            )
        )
        return Curvature(found.tensors, found.tokens)

    @property
    def _passes(self) -> dict[str, Any]:
        """How passes with a way back are made."""
        names = ("precision", "activation_checkpointing", "progress")
        return {name: getattr(self._shown, name) for name in names}

    @cached_property
    def _spread(self) -> tuple[Curvature, Curvature]:
        found = self._of_model(lambda model: spread(model, self._examples, **self._passes))
        return (
            Curvature({name: moments.mean for name, moments in found.items()}),
            Curvature({name: moments.sd for name, moments in found.items()}),
        )

    def _of_model(self, ask: Callable[[NemotronHForCausalLM], T]) -> T:
        model, _ = checkpoint.load(self.folder)
        checkpoint.freeze_routers(model)  # as by default no training moves them
        try:
            return ask(model)
        finally:
            del model
            gc.collect()  # it is in circles with its hooks, and the next one would be beside it
