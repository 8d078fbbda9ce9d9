"""What of a training run survives a kill: one safetensors file, replaced whole or not at all.

Holds the trained weights, the routers' biases where they move, the optimizer's state and the
counters; what is frozen is the base's.
No pickle, so a state file from anywhere can run no code. Not a model checkpoint: that is
`updater.nemotron.checkpoint`'s. Called by `updater.train.fit`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

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


def save(
    folder: Path,
    fingerprint: str,
    parameters: Mapping[str, nn.Parameter],
    buffers: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    counters: Counters,
    losses: list[float],
) -> None:
    """The run's state is on the disk; until then the state before is.

    Raises:
        OSError: the disk refuses.
    """
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    tensors |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    record = json.dumps({"fingerprint": fingerprint, **dataclasses.asdict(counters)})
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILE}.partial"
    save_tensors({n: t.contiguous() for n, t in tensors.items()}, partial, {_RECORD: record})
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(folder / FILE)


@torch.no_grad()
def restore(
    folder: Path,
    fingerprint: str,
    parameters: Mapping[str, nn.Parameter],
    buffers: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[Counters, list[float]]:
    """Parameters, buffers and optimizer are as they were saved, and so are the counters and losses
    that are returned; all untouched and at zero where there is no state of this very run."""
    try:
        with safe_open(folder / FILE, framework="pt") as stream:
            record = json.loads((stream.metadata() or {}).get(_RECORD, "{}"))
            if record.pop("fingerprint", None) != fingerprint:
                return Counters(), []
            for name in stream.keys():  # noqa: SIM118 - not a dict
                kind, _, rest = name.partition("/")
                if kind == "parameter":
                    parameters[rest].copy_(stream.get_tensor(name))
                elif kind == "buffer":
                    buffers[rest].copy_(stream.get_tensor(name))
                elif kind == "optimizer":
                    key, _, owner = rest.partition("/")
                    value, parameter = stream.get_tensor(name), parameters[owner]
                    # Of torch's Adam only a fused one counts its steps on the device.
                    if key != "step" or optimizer.defaults["fused"]:
                        value = value.to(parameter.device)
                    optimizer.state[parameter][key] = value
            return Counters(**record), stream.get_tensor("losses").tolist()
    except (FileNotFoundError, SafetensorError):
        # Nothing saved yet, or a disk that lost its end: training begins again.
        return Counters(), []
