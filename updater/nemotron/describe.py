"""What a checkpoint is, from its config.json and the headers of its files. No torch.

Called by `updater.doctor`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updater.nemotron import heads
from updater.nemotron.layout import mtp_shapes, pattern, tensor_shapes
from updater.nemotron.recognise import release
from updater.nemotron.tokenizer import has_template, reader
from updater.nemotron.validate import Contents

HEAD = "multi-token prediction"
# What stands in a tensor's released name -> the part of the model that it belongs to; else a mixer.
_PARTS = {
    "mtp.": HEAD,
    ".mixer.experts.": "routed experts",
    ".shared_experts.": "shared experts",
    ".gate.": "routers",
    "_latent_proj.": "latent projections",
    "backbone.embeddings.": "embedding",
    "lm_head.": "output head",
    "backbone.norm_f.": "norms",
}
_MIXERS = {"M": "Mamba-2", "*": "attention", "-": "MLP"}
LAYERS = {**_MIXERS, "E": "mixture of experts"}


@dataclass(frozen=True)
class Description:
    """A checkpoint for people.

    `release`: the release whose shape it has, "" where it is none's. `layers`: kind -> how many.
    `parameters`: part of the model -> how many; the routers' correction bias is none. `num_active`:
    those that one token passes, embedding and output head among them. `longest`: tokens, as
    config.json says. `mtp`: "none", "whole", or "missing" where config.json speaks of a head that
    is not there.
    """

    release: str
    layers: Mapping[str, int]
    parameters: Mapping[str, int]
    num_active: int
    dtypes: Mapping[str, int]
    num_files: int
    num_bytes: int
    vocabulary: int
    longest: int
    mtp: str
    chat_template: bool

    @property
    def num_parameters(self) -> int:
        """Without a multi-token-prediction head, as NVIDIA counts."""
        return sum(count for part, count in self.parameters.items() if part != HEAD)


def describe(folder: Path, contents: Contents) -> Description:
    """What `validate.check` found in the folder, in figures."""
    fields, where = contents.config, str(folder)
    letters, head = pattern(fields, where=where), mtp_shapes(fields, where=where)
    has_head = heads.has_head(fields, contents.entries, where=where)
    parameters = parameters_of(fields)
    if has_head:
        parameters[HEAD] = sum(
            math.prod(shape) for name, shape in head.items() if not name.endswith("_bias")
        )
    return Description(
        release=release(fields),
        layers=dict(Counter(LAYERS[letter] for letter in letters)),
        parameters=parameters,
        num_active=active(fields, parameters),
        dtypes=dict(Counter(entry.dtype for entry in contents.entries.values())),
        num_files=len(contents.headers),
        num_bytes=sum((folder / name).stat().st_size for name in contents.headers),
        vocabulary=fields["vocab_size"],
        longest=int(fields.get("max_position_embeddings", 0)),
        mtp="whole" if has_head else "missing" if head else "none",
        chat_template=has_template(reader(folder)),
    )


def parameters_of(fields: Mapping[str, Any]) -> dict[str, int]:
    """Part of the model -> its parameters, for a config.json's fields, without a
    multi-token-prediction head."""
    letters = pattern(fields, where="config.json")
    parameters: Counter[str] = Counter()
    for name, shape in tensor_shapes(fields, where="config.json").items():
        if not name.endswith("e_score_correction_bias"):
            parameters[_part(name, letters)] += math.prod(shape)
    return dict(parameters)


def active(fields: Mapping[str, Any], parameters: Mapping[str, int]) -> int:
    """Parameters that one token passes: of the routed experts only those that it is sent to."""
    routed = parameters.get("routed experts", 0)
    idle = 0
    if routed:
        idle = routed - routed * fields["num_experts_per_tok"] // fields["n_routed_experts"]
    return sum(count for part, count in parameters.items() if part != HEAD) - idle


def _part(name: str, letters: str) -> str:
    for told, part in _PARTS.items():
        if told in name:
            return part
    layer, _, tensor = name.removeprefix("backbone.layers.").partition(".")
    return "norms" if tensor == "norm.weight" else _MIXERS[letters[int(layer)]]
