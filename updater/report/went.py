"""What compression took away, layer by layer: by the run's file and the shape of the base.

Called by `collect`; drawn by `removed`.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from store.errors import StoreError
from store.ledger import ModelVersion
from updater.nemotron.layout import mtp_shapes, pattern, released_form, tensor_shapes
from updater.nemotron.sparsity import DENSE, EXPERT, EXPERTS, HEADS, SHARED
from updater.report.data import Went
from updater.shrunk import Compression
from updater.workspace import Workspace

_WHERE = "config.json"
_MIXER = re.compile(r"(backbone|mtp)\.layers\.(\d+)\.mixer\.?(.*)")
_MLPS = {
    "": ("MLP", DENSE),
    "shared_experts": ("shared experts", SHARED),
    "experts": ("routed experts", EXPERT),
}
"""What a key has after its layer, without an expert's number -> in words, and how wide it is."""


def went(workspace: Workspace, version: ModelVersion, found: Compression) -> Went | None:
    """None where the checkpoint of before is gone or out of reach: then its shape is not known.

    Raises:
        OSError: the run's file can't be read.
    """
    try:
        base, smaller = (_fields(workspace, d) for d in (found.uncompressed, version.digest))
    except StoreError:
        return None
    told = _told(workspace, version)
    gone, remove = told["gone"], found.asked.remove
    layers = gone.pop("backbone.layers", ())
    # Of what is quantized alone they are told too, and are the trained weights' own.
    shares = told["zeros"].items() if found.asked.method != "none" else ()
    if remove == "neurons":
        shares = ((key, len(numbers) / base[_width(key)]) for key, numbers in gone.items())
    whole = bool(gone) and remove in ("experts", "heads")
    return Went(
        letters=pattern(base, where=_WHERE),
        base_parameters=_before(found, base, smaller),
        layers=tuple(layers),
        parts={_place(key)[0]: tuple(numbers) for key, numbers in gone.items()} if whole else {},
        num_parts=base[EXPERTS if remove == "experts" else HEADS] if whole else 0,
        shares=_means(shares),
    )


def _fields(workspace: Workspace, digest: str) -> dict[str, Any]:
    return released_form(json.loads(workspace.checkpoints.read(digest, _WHERE)))


def _told(workspace: Workspace, version: ModelVersion) -> dict[str, Any]:
    """What the step left; nothing where the run's folder is gone."""
    path = workspace.root / "runs" / str(version.update) / "taken_away.json"
    if not path.exists():
        return {"gone": {}, "zeros": {}}
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _before(found: Compression, base: Mapping[str, Any], smaller: Mapping[str, Any]) -> int | None:
    """The parameters of before. A head is in the checkpoint or not, whatever config.json says, so
    they are known where with or without one the smaller shape has as many as were counted."""
    for tensors in ((tensor_shapes,), (tensor_shapes, mtp_shapes)):
        before, after = (
            sum(math.prod(shape) for of in tensors for shape in of(fields, where=_WHERE).values())
            for fields in (base, smaller)
        )
        if after == found.num_parameters:
            return before
    return None


def _place(name: str) -> tuple[str, str]:
    """(the layer, what of it) of a key or a released name; all experts are one."""
    match = _MIXER.match(name)
    assert match is not None, f"{name} is of a layer"
    stack, layer, rest = match.groups()
    rest = re.sub(r"^experts\.\d+", "experts", rest).removesuffix(".weight")
    return (layer if stack == "backbone" else f"MTP {layer}"), rest


def _width(key: str) -> str:
    return _MLPS[_place(key)[1]][1]


def _means(shares: Iterable[tuple[str, float]]) -> dict[tuple[str, str], float]:
    """By layer and sort, whose matrices are alike, so that a mean is the share of all of them."""
    found = defaultdict(list)
    for name, share in shares:
        layer, sort = _place(name)
        found[layer, _MLPS[sort][0] if sort in _MLPS else sort].append(share)
    return {place: fmean(of) for place, of in found.items()}
