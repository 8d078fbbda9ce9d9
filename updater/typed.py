"""What a person types to go on with an update, or to begin another like it.

The command with the arguments and the options of its own that make it that update, as an error's
cure names it. What else was overridden with --set is not known here.
"""

import json
import shlex
from dataclasses import asdict

from store.ledger import Update
from updater.settings import CompressionSettings
from updater.settings.compression import OF_METHOD

OPTIONS = ("method", "remove", "sparsity", "quantize")
"""Keys of [compression] that `updater compress` has an option for."""


def command(update: Update) -> str:
    """By what the ledger has of the update."""
    if update.kind == "compress":
        asked = CompressionSettings(**update.config["compression"])
        return compression(str(update.base), asked)
    if update.kind == "update":
        return f"updater update {update.period}"
    arguments = update.config["arguments"]
    words = ["updater", update.kind]
    if update.kind == "adopt":
        words.append(arguments["checkpoint"])
    elif arguments["deploy"]:
        words.append("--deploy")
    return shlex.join([*words, "--periods", *arguments["periods"]])


def compression(version: str, asked: CompressionSettings) -> str:
    """What compresses the version so, whatever [compression] says. What only a method heeds is left
    out where there is none: it is refused there."""
    words = ["updater", "compress", version]
    removes = asked.method != "none"
    if removes:
        words += ["--method", asked.method, "--remove", asked.remove]
    if removes and asked.pattern == "none":
        words += ["--sparsity", f"{asked.sparsity}"]
    if asked.quantize != "none":
        words += ["--quantize", asked.quantize]
    defaults = asdict(CompressionSettings())
    for name, value in asdict(asked).items():
        written = json.dumps(value)  # by which a list that was recorded is the tuple that it was
        is_idle = name in OF_METHOD and not removes
        if name not in OPTIONS and not is_idle and written != json.dumps(defaults[name]):
            shown = value if isinstance(value, str) else written
            words += ["--set", f"compression.{name}={shown}"]
    return shlex.join(words)
