"""How an arm of a study compresses the first model, in a few words.

Pure. Called by `updater.study.grid`, which names arms so, and by what is reported of them.
"""

from dataclasses import dataclass

from updater.settings import CompressionSettings


@dataclass(frozen=True)
class Way:
    """`control`: "scratch" where it is not what is left of the first model, but one of its shape
    that was trained from random weights."""

    settings: CompressionSettings
    control: str = "none"

    @property
    def name(self) -> str:
        """As "obd 50 %", "reap experts 25 % + finetune", "int8", "scratch neurons 30 %"; of
        weights "scratch obd 90 %"."""
        given = self.settings
        if self.control == "scratch":
            places = f"{given.method} " if given.remove == "weights" else ""  # of the zeros
            return f"scratch {places}{self.what}"
        parts = (f"{given.method} {self.what}" if self.what else "", given.recovery, given.quantize)
        return " + ".join(part for part in parts if part not in ("", "none"))

    @property
    def what(self) -> str:
        """What goes, and how much of it: "50 %" of the weights, "neurons 30 %"; "" for nothing."""
        given = self.settings
        if given.method == "none":
            return ""
        share = f"{100 * given.sparsity:g} %" if given.pattern == "none" else given.pattern
        return share if given.remove == "weights" else f"{given.remove} {share}"

    @property
    def group(self) -> str:
        """What arms are told apart by in a picture of them all: what goes, or "quantized" where
        nothing does, or "from scratch"."""
        if self.control == "scratch":
            return "from scratch"
        return self.settings.remove if self.what else "quantized"

    @property
    def needs_examples(self) -> bool:
        """Whether it looks at examples beside those of the Fisher of the first model."""
        return self.settings.needs_examples
