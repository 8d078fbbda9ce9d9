"""What an update cost: time, hours of devices, and energy where a meter was there.

Added up from what its steps recorded; nothing is estimated. Called by the report, the model card
and the pipeline, which records on what a step computed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from store.ledger import Step
from updater.settings import TrainingSettings


@dataclass(frozen=True)
class Cost:
    """`seconds` of all steps; `device_hours`: the computing seconds of each step times the devices
    that it had, None where a step of an older release did not say; `device`: "GPU", "CPU", or ""
    where it is not known or differs. `energy_joules`: of the GPU boards while it was trained, by
    NVML's counters; None where none was there."""

    seconds: float = 0.0
    device: str = ""
    device_hours: float | None = None
    energy_joules: float | None = None


def place(step: str, result: Mapping[str, Any], training: TrainingSettings) -> dict[str, Any]:
    """On what a step computed: "cuda" or "cpu", and on how many; nothing where it did not."""
    if not result.get("compute_seconds"):
        return {}
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "device": kind,
        "num_devices": (training if step == "train" else training.beside_training).num_processes,
    }


def cost_of(steps: Iterable[Step]) -> Cost:
    """What the finished steps of one update cost together."""
    done = [step for step in steps if step.state == "finished"]
    computed = [step.result for step in done if step.result.get("compute_seconds")]
    kinds = {str(result.get("device", "")) for result in computed}
    known = all("num_devices" in result for result in computed)
    return Cost(
        seconds=sum(step.seconds or 0.0 for step in done),
        device={"cuda": "GPU", "cpu": "CPU"}.get(kinds.pop(), "") if len(kinds) == 1 else "",
        device_hours=sum(map(_device_seconds, computed)) / 3600 if known else None,
        energy_joules=next((r["energy_joules"] for r in computed if "energy_joules" in r), None),
    )


def _device_seconds(result: Mapping[str, Any]) -> float:
    """A drafting head may be aligned on fewer devices than trained the rest."""
    head = result.get("mtp", {})
    of_head = float(head.get("compute_seconds", 0.0))
    rest = float(result["compute_seconds"]) - of_head
    # A step of an older release does not say on how many.
    return rest * int(result["num_devices"]) + of_head * int(head.get("num_devices", 1))
