"""What [compression] asked for, in words. For the page and the model card."""

from updater.settings import CompressionSettings


def removed(asked: CompressionSettings, method: str) -> str:
    """What went. `method`: how its name is written."""
    share = "two of each four" if asked.pattern != "none" else f"{100 * asked.sparsity:g}% of the"
    rounds = f" in {asked.rounds} rounds" if asked.rounds > 1 else ""
    return f"{share} {asked.remove}, chosen by {method}{rounds}"


def recovered(asked: CompressionSettings) -> str:
    """How what was left learnt again."""
    epochs = "1 epoch" if asked.recovery_epochs == 1 else f"{asked.recovery_epochs} epochs"
    said = " and from what the uncompressed model says to them" * (asked.recovery == "distill")
    return f"for {epochs}, from the examples{said}"
