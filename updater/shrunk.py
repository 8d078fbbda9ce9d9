"""How a version is compressed, read from the ledger: what was asked, and what became of it.

Called by the commands' answers and the report.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from store.ledger import Ledger, Update
from updater.settings import CompressionSettings


@dataclass(frozen=True)
class Compression:
    """Of one version.

    `uncompressed`: the digest of the checkpoint with the weights of before. Bytes are those of the
    weight files; numbers are counted before they are quantized.
    """

    asked: CompressionSettings
    uncompressed: str
    num_parameters: int
    nonzero_fraction: float
    num_bytes: int
    base_bytes: int
    seconds: float

    @property
    def bytes_ratio(self) -> float:
        """What is left of the bytes of before."""
        return self.num_bytes / self.base_bytes

    def as_dict(self) -> dict[str, Any]:
        """As `updater show` answers."""
        return {
            **_told(asdict(self.asked)),
            "num_parameters": self.num_parameters,
            "nonzero_fraction": self.nonzero_fraction,
            "bytes": self.num_bytes,
            "base_bytes": self.base_bytes,
        }


def asked(update: Update) -> dict[str, Any] | None:
    """What is taken away of the update's candidate, made or not yet, as `updater status` answers;
    None where nothing is."""
    recorded = update.config.get("compression")  # once there was none
    if recorded is None or update.kind not in ("update", "compress"):
        return None
    return _told(recorded) if {recorded["method"], recorded["quantize"]} != {"none"} else None


def _told(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings as they are recorded, perhaps by another release. Where no method takes anything
    away, nothing is said of what and how much."""
    removes = asked["method"] != "none"
    sparsity = asked["sparsity"] if asked["pattern"] == "none" else 0.5
    return {
        "method": asked["method"],
        "remove": asked["remove"] if removes else None,
        "sparsity": sparsity if removes else None,
        "quantize": asked["quantize"],
        "recovery": asked["recovery"],
    }


def compression(ledger: Ledger, update: str | None) -> Compression | None:
    """Of the version that the update made; None where it was not compressed."""
    step = ledger.step(update, "train") if update is not None else None
    if update is None or step is None or "compression" not in step.result:
        return None
    told = step.result["compression"]
    return Compression(
        asked=CompressionSettings(**ledger.update(update).config["compression"]),
        uncompressed=step.result["uncompressed"],
        num_parameters=told["num_parameters"],
        nonzero_fraction=told["nonzero_fraction"],
        num_bytes=told["bytes"],
        base_bytes=told["base_bytes"],
        seconds=told["seconds"],
    )
