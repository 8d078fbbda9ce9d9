"""How a version was compressed, read from a workspace: for the report, and for `updater show`."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from store.ledger import ModelVersion, Update, migrate
from updater import outcome
from updater.cli import tables
from updater.nemotron.layout import mtp_shapes, tensor_shapes
from updater.report.data import Went
from updater.report.went import went
from updater.settings import CompressionSettings
from updater.shrunk import Compression, compression
from updater.workspace import Workspace

CONFIG = """
[workspace]
name = "tickets"
[source]
uri = "rows.jsonl"
[source.fields]
prompt = "{text}"
completion = "{answer}"
period = "{month}"
[periods]
order = ["jan"]
"""


@pytest.fixture
def small(tmp_path: Path, story_of: Any, tiny_json: str) -> Callable[..., Workspace]:
    """A function: a workspace with version 2, made of version 1 by this compression; `shape` is
    what its config.json says otherwise, `told` its taken_away.json."""
    fields = json.loads(tiny_json) | {"vocab_size": 320}

    def make(
        shape: dict[str, Any], told: dict[str, Any], head: bool = False, **asks: Any
    ) -> Workspace:
        (tmp_path / "updater.toml").write_text(CONFIG)
        workspace = Workspace.open(tmp_path)
        migrate(workspace.ledger_url)
        story = story_of(workspace.ledger)
        base = fields | ({"num_nextn_predict_layers": 1} if head else {})
        digests = []
        for number, one in enumerate((base, base | shape)):
            folder = tmp_path / f"checkpoint-{number}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(one))
            digests.append(workspace.checkpoints.add(folder))
        return _recorded(workspace, story, digests, base | shape, told, head=head, asks=asks)

    return make


def _recorded(
    workspace: Workspace,
    story: Any,
    digests: list[str],
    shape: dict[str, Any],
    told: dict[str, Any],
    *,
    head: bool,
    asks: dict[str, Any],
) -> Workspace:
    ledger = workspace.ledger
    config = {"compression": dataclasses.asdict(CompressionSettings(**asks))}
    ledger.open_update(
        Update(
            id="u-2",
            kind="compress",
            period="jan",
            base=None,
            dataset_version=story.dataset("jan").id,
            config=config,
            config_digest="d1",
            candidate=None,
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
        )
    )
    parameters = _count(tensor_shapes(shape, where="test")) + head * _count(
        mtp_shapes(shape, where="test")
    )
    made = {"num_parameters": parameters, "nonzero_fraction": 0.9, "bytes": 30, "base_bytes": 40}
    result = {"uncompressed": digests[0], "compression": {**made, "seconds": 2.0}}
    story.step("u-2", "train", {"version": "2", **result})
    ledger.record_model_version(
        ModelVersion(
            id="2",
            kind="compress",
            base=None,
            update="u-2",
            digest=digests[1],
            uri="",
            periods=[],
            dataset_versions={},
            run_id="r",
            created_at=ledger.update("u-2").created_at,
        )
    )
    run = workspace.root / "runs" / "u-2"
    run.mkdir(parents=True)
    (run / "taken_away.json").write_text(json.dumps({"gone": {}, "zeros": {}} | told))
    return workspace


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def read(workspace: Workspace) -> tuple[Compression, Went | None]:
    found = compression(workspace.ledger, "u-2")
    assert found is not None
    return found, went(workspace, workspace.ledger.model_version("2"), found)


def of_base(tiny_json: str, **more: Any) -> int:
    return _count(tensor_shapes(json.loads(tiny_json) | {"vocab_size": 320} | more, where="test"))


def test_experts_are_read_by_layer(small: Any, tiny_json: str) -> None:
    gone = {"backbone.layers.1.mixer.experts": [0], "backbone.layers.3.mixer.experts": [2]}
    told = {"gone": {**gone, "mtp.layers.1.mixer.experts": [3]}}
    workspace = small(
        {"n_routed_experts": 3}, told, head=True, method="reap", remove="experts", sparsity=0.25
    )
    found, shown = read(workspace)
    assert shown.letters == "ME*E"
    assert (shown.parts, shown.num_parts) == ({"1": (0,), "3": (2,), "MTP 1": (3,)}, 4)
    assert not shown.layers
    assert not shown.shares
    whole = _count(
        mtp_shapes(
            json.loads(tiny_json) | {"vocab_size": 320, "num_nextn_predict_layers": 1}, where="test"
        )
    )
    assert shown.base_parameters == of_base(tiny_json) + whole, "the head is in the checkpoint"
    assert found.bytes_ratio == 0.75


def test_layers_and_heads_are_read(small: Any, tiny_json: str) -> None:
    workspace = small(
        {"hybrid_override_pattern": "ME*"},
        {"gone": {"backbone.layers": [3]}},
        method="dropout",
        remove="layers",
        sparsity=0.25,
    )
    _, shown = read(workspace)
    assert (shown.letters, shown.layers, shown.parts) == ("ME*E", (3,), {})
    assert shown.base_parameters == of_base(tiny_json)


def test_heads_are_of_mamba(small: Any) -> None:
    told = {"gone": {"backbone.layers.0.mixer": [1, 3]}}
    workspace = small({"mamba_num_heads": 2}, told, method="obd", remove="heads")
    _, shown = read(workspace)
    assert (shown.parts, shown.num_parts) == ({"0": (1, 3)}, 4)


def test_neurons_are_shares_of_the_width_by_sort(small: Any) -> None:
    routed = {f"backbone.layers.1.mixer.experts.{n}": list(range(8)) for n in range(4)}
    told = {"gone": {**routed, "backbone.layers.1.mixer.shared_experts": list(range(16))}}
    workspace = small(
        {"moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 48},
        told,
        method="magnitude",
        remove="neurons",
        sparsity=0.25,
    )
    _, shown = read(workspace)
    assert shown.shares == {("1", "routed experts"): 0.25, ("1", "shared experts"): 0.25}
    assert not shown.parts


def test_zeros_of_a_layers_experts_are_one_share(small: Any, tiny_json: str) -> None:
    zeros = {
        "backbone.layers.0.mixer.in_proj.weight": 0.5,
        "backbone.layers.1.mixer.experts.0.up_proj.weight": 0.2,
        "backbone.layers.1.mixer.experts.1.up_proj.weight": 0.4,
        "backbone.layers.1.mixer.shared_experts.up_proj.weight": 0.1,
    }
    workspace = small({}, {"zeros": zeros}, method="obd", sparsity=0.3)
    _, shown = read(workspace)
    assert shown.shares == {
        ("0", "in_proj"): 0.5,
        ("1", "experts.up_proj"): pytest.approx(0.3),
        ("1", "shared_experts.up_proj"): 0.1,
    }
    assert shown.base_parameters == of_base(tiny_json)


def test_of_a_quantized_version_nothing_went(small: Any) -> None:
    zeros = {"backbone.layers.0.mixer.in_proj.weight": 0.0}
    _, shown = read(small({}, {"zeros": zeros}, quantize="int8"))
    assert shown == Went("ME*E", shown.base_parameters)


def test_without_the_base_or_the_runs_folder_less_is_known(small: Any, tmp_path: Path) -> None:
    workspace = small({}, {"zeros": {"backbone.layers.0.mixer.in_proj.weight": 0.5}}, method="obd")
    (tmp_path / "runs" / "u-2" / "taken_away.json").unlink()
    found, shown = read(workspace)
    assert (shown.shares, shown.letters) == ({}, "ME*E")
    gone = dataclasses.replace(found, uncompressed="ab" * 32)
    assert went(workspace, workspace.ledger.model_version("2"), gone) is None


def test_show_answers_what_was_asked_and_what_is_left(small: Any) -> None:
    workspace = small(
        {}, {}, method="obd", pattern="2:4", quantize="int8", recovery="distill", sparsity=0.3
    )
    answer = outcome.version(workspace, "2")
    told = dict(answer["compression"])
    assert told.pop("num_parameters") > 1000
    assert told == {
        "method": "obd",
        "remove": "weights",
        "sparsity": 0.5,
        "quantize": "int8",
        "recovery": "distill",
        "nonzero_fraction": 0.9,
        "bytes": 30,
        "base_bytes": 40,
    }
    console = Console(width=200, record=True, file=io.StringIO())
    tables.version(console, answer)
    said = console.export_text()
    assert "50 % of the weights removed by obd, recovered by distill, kept as int8: " in said
    assert "90% of them not zero; 0.0 MB, 75% of before" in said


def test_show_says_nothing_of_what_was_not_removed(small: Any) -> None:
    workspace = small({}, {}, quantize="fp8")
    told = outcome.version(workspace, "2")["compression"]
    assert (told["method"], told["remove"], told["sparsity"]) == ("none", None, None)
    assert compression(workspace.ledger, None) is None
