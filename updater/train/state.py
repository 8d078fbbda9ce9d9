"""What of a training run survives a kill: one safetensors file, replaced whole or not at all.

Holds the trained weights, the routers' biases where they move, the optimizer's state and the
counters; what is frozen is the base's.
No pickle, so a state file from anywhere can run no code. Not a model checkpoint: that is
`updater.nemotron.checkpoint`'s. Of a training in shards: `updater.train.sharded_state`. Called by
`updater.train.saver`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from regularizers.shards import sharded_like
from updater.nemotron.saving import save_tensors

FILE = "training.safetensors"
_RECORD = "training"


@dataclass
class Counters:
    """How far a run is. `seconds` is time spent on what is counted here: a killed run's unsaved
    steps are not in it."""

    num_steps: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Live:
    """The tensors of a run while it trains: what of it is saved, and restored. `buffers`: those
    that change without a gradient."""

    parameters: Mapping[str, nn.Parameter]
    buffers: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer

    def named(self) -> dict[str, torch.Tensor]:
        """Each under its name in a saved state."""
        tensors = {f"buffer/{name}": buffer for name, buffer in self.buffers.items()}
        for name, parameter in self.parameters.items():
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def put(self, name: str, value: torch.Tensor) -> None:
        """The tensor of this name in a saved state is `value`, a whole tensor, or cut as the run's
        own."""
        kind, _, rest = name.partition("/")
        if kind == "buffer":
            self.buffers[rest].copy_(value)
            return
        if kind == "parameter":
            self.parameters[rest].copy_(sharded_like(self.parameters[rest], value))
            return
        key, _, owner = rest.partition("/")
        parameter = self.parameters[owner]
        if value.shape == parameter.shape:
            value = sharded_like(parameter, value.to(parameter.dtype))
        # Of torch's Adam only a fused one counts its steps on the device.
        if key != "step" or self.optimizer.defaults["fused"]:
            value = value.to(parameter.device)
        self.optimizer.state[parameter][key] = value


def save(
    folder: Path, fingerprint: str, live: Live, counters: Counters, losses: list[float]
) -> None:
    """The run's state is on the disk; until then the state before is.

    Raises:
        OSError: the disk refuses.
    """
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64), **live.named()}
    record = json.dumps({"fingerprint": fingerprint, **dataclasses.asdict(counters)})
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILE}.partial"
    save_tensors({n: t.contiguous() for n, t in tensors.items()}, partial, {_RECORD: record})
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(folder / FILE)


def num_steps(folder: Path, fingerprint: str) -> int:
    """Of the state that `restore` would read; 0: there is none."""
    try:
        with safe_open(folder / FILE, framework="pt") as stream:
            return int(_record(stream, fingerprint).get("num_steps", 0))
    except (FileNotFoundError, SafetensorError):
        return 0


def _record(stream: Any, fingerprint: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((stream.metadata() or {}).get(_RECORD, "{}"))
    return record if record.pop("fingerprint", None) == fingerprint else {}


def restore(folder: Path, fingerprint: str, live: Live) -> tuple[Counters, list[float]]:
    """`live` is as it was saved, and so are the counters and losses that are returned; all
    untouched and at zero where there is no state of this very run."""
    try:
        with safe_open(folder / FILE, framework="pt") as stream:
            record = _record(stream, fingerprint)
            if not record:
                return Counters(), []
            losses = stream.get_tensor("losses").tolist()
            for name in stream.keys():  # noqa: SIM118 - not a dict
                if name != "losses":
                    live.put(name, stream.get_tensor(name))
            return Counters(**record), losses
    except (FileNotFoundError, SafetensorError):
        # Nothing saved yet, or a disk that lost its end: training begins again.
        return Counters(), []
