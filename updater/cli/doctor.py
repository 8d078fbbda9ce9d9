"""The command doctor: what a checkpoint is, and whether this machine can update it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from updater.cli.app import Session, app
from updater.errors import InputError
from updater.settings import ModelSettings, RegularizerSettings, TrainingSettings

if TYPE_CHECKING:
    from updater.doctor import Diagnosis

_GIB = 2**30


class _Begins(NamedTuple):
    """Where an update would begin. `version`: the deployed one, None of a folder. `compressed`:
    which weights of it these are, "uncompressed" or "compressed"; None where it is not compressed.
    """

    folder: Path
    version: str | None = None
    compressed: str | None = None


@app.command()
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A checkpoint folder; else what the next update begins at.",
)
@click.option("--length", type=click.IntRange(2), metavar="N", help="Tokens of each example.")
@click.option("--no-timing", is_flag=True, help="Don't time a step.")
@click.pass_obj
def doctor(session: Session, folder: Path | None, length: int | None, no_timing: bool) -> None:
    """Tell what a checkpoint is and if it can be trained here.

    By the settings of the workspace, or the defaults where there is none: memory for each GPU,
    steps an hour, and, where that doesn't fit, the nearest settings that do. Nothing is changed.

    \b
    Example: updater doctor --model nemotron-3-nano --length 4096
    """
    from updater.doctor import diagnose

    training, regularizer, longest = _settings(session)
    begins = _next(session) if folder is None else _Begins(folder)
    found = diagnose(
        begins.folder,
        training=training,
        regularizer=regularizer,
        length=length or longest,
        timed=not no_timing,
    )
    answer = asdict(found)
    answer["model"]["num_parameters"] = found.model.num_parameters
    answer |= {"version": begins.version, "compressed": begins.compressed}
    session.answer(answer, lambda console: _show(console, found, begins))


def _settings(session: Session) -> tuple[TrainingSettings, RegularizerSettings, int]:
    from updater.workspace import CONFIG_FILE

    # Only where no workspace is do the defaults stand in for it: a broken one is told.
    if not session.overrides and not (session.folder / CONFIG_FILE).is_file():
        return TrainingSettings(), RegularizerSettings(), ModelSettings().max_length_tokens
    settings = session.workspace().settings
    return settings.training, settings.regularizer, settings.model.max_length_tokens


def _next(session: Session) -> _Begins:
    """What the next update trains, which need not be what is deployed."""
    from updater.shrunk import compression
    from updater.standing import deployed
    from updater.steps.start import start_at, start_folder

    workspace = session.workspace()
    version = deployed(workspace.ledger)
    if version is None:
        raise InputError("no version is deployed", "a checkpoint is needed", "give --model DIR")
    one = workspace.ledger.model_version(version)
    compressed = ""
    if compression(workspace.ledger, one.update) is not None:
        is_whole = start_at(workspace, version).digest != one.digest
        compressed = "uncompressed" if is_whole else "compressed"
    return _Begins(start_folder(workspace, version), version, compressed or None)


def _show(console: Console, found: "Diagnosis", begins: _Begins) -> None:
    model, machine = found.model, found.machine
    about = Table(show_header=False, box=None, pad_edge=False)
    if begins.compressed:
        about.add_row(
            f"version {begins.version}",
            f"is compressed; an update begins at its {begins.compressed} weights, told here",
        )
    about.add_row(
        "model", f"the shape of {model.release}" if model.release else "a shape of its own"
    )
    layers = ", ".join(f"{count} {kind}" for kind, count in model.layers.items())
    about.add_row("layers", layers)
    about.add_row(
        "parameters", f"{model.num_parameters:,}, of which a token passes {model.num_active:,}"
    )
    for part, count in sorted(model.parameters.items(), key=lambda item: -item[1]):
        about.add_row("", f"{count:>18,}  {part}")
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in model.dtypes.items())
    files = f"{model.num_bytes / _GIB:.2f} GiB in {model.num_files} files, tensors: {dtypes}"
    about.add_row("on disk", files)
    about.add_row("vocabulary", f"{model.vocabulary:,}; up to {model.longest:,} tokens")
    about.add_row("drafting head", model.mtp)
    about.add_row("chat template", "yes" if model.chat_template else "no")
    names = ", ".join(machine.names) or f"no GPU; {machine.num_cores} cores"
    about.add_row("machine", f"{names}, {machine.memory_bytes / _GIB:.1f} GiB")
    if machine.free_bytes is not None:
        about.add_row("", f"{machine.free_bytes / _GIB:.1f} GiB of that free now")
    if machine.host_bytes is not None:
        about.add_row("", f"{machine.host_bytes / _GIB:.1f} GiB of main memory beside it")
    if machine.device == "cuda" and not machine.kernels:
        about.add_row("", "without mamba-ssm and causal-conv1d: slower, and more memory")
    console.print(about)
    console.print()
    console.print(_ways(found))
    console.print(_verdict(found))


def _ways(found: "Diagnosis") -> Table:
    has_host = found.machine.host_bytes is not None
    table = Table(
        *("precision", "examples a pass", "adapt", "regularizer", "activations", "devices"),
        "GiB of each",
        *(("GiB of main memory",) if has_host else ()),
        "fits",
        title=f"Memory for examples of {found.length} tokens",
    )
    for way in found.ways:
        form = "" if way.format == "float32" else way.format
        kinds = (way.regularizer, form, "offloaded" if way.offload else "")
        held = ", ".join(kind for kind in kinds if kind)
        table.add_row(
            way.precision,
            str(way.batch_size),
            way.adapt,
            held,
            "checkpointed" if way.activation_checkpointing else "kept",
            f"{way.devices}, in shards" if way.strategy == "fsdp" else str(way.devices),
            _gib(way.peak_bytes),
            *((_gib(way.host_bytes),) if has_host else ()),
            "no" if not way.fits else "yes" if way.fits_now else "not now",
        )
    return table


def _gib(num_bytes: int) -> str:
    """Two decimals of what is small, none of what is large."""
    gib = num_bytes / _GIB
    return f"{gib:.2f}" if gib < 10 else f"{gib:.0f}"


def _verdict(found: "Diagnosis") -> str:
    machine = found.machine
    first = next((way for way in found.ways if way.fits), None)
    who = "This machine" if found.nodes == 1 else f"{found.nodes} machines like this one"
    if first is None:
        return f"{who} can't update it: {_missing(found)}."
    pace = (
        ""
        if found.steps_per_hour is None
        else f", some {found.steps_per_hour:,.0f} steps an hour of"
        f" {first.batch_size * first.accumulate} such examples"
    )
    now = ""
    if not first.fits_now:
        free = _gib(machine.free_bytes or 0)
        now = f" Not now: of a GPU {free} GiB are free, the rest is held by other processes."
    if found.ways[0].fits:
        return f"{who} can update it by these settings{pace}.{now}"
    own = found.ways[0]
    changes = [
        f'training.{name} = "{getattr(first, name)}"'
        for name in ("precision", "adapt")
        if getattr(first, name) != getattr(own, name)
    ]
    # What "auto" stands for is another under lora.
    if first.devices > 1 and (first.strategy, first.adapt) != (own.strategy, own.adapt):
        changes.append(f'training.strategy = "{first.strategy}"')
    if first.gather_gib != own.gather_gib:
        changes.append(f"training.gather_gib = {first.gather_gib:g}")
    if first.batch_size != own.batch_size:
        changes.append(f"training.batch_size = {first.batch_size}")
        changes.append(f"training.accumulate = {first.accumulate}")
    if first.train_routers != own.train_routers:
        changes.append("training.train_routers = false")
    if own.lora_experts and not first.lora_experts:
        changes.append("training.lora_experts = false")
    if first.devices != own.devices:
        changes.append(f"training.devices = {first.devices // found.nodes}")
    if first.activation_checkpointing != own.activation_checkpointing:
        changes.append("training.activation_checkpointing = true")
    if first.format != own.format:
        changes.append(f'regularizer.format = "{first.format}"')
    if first.offload != own.offload:
        changes.append(f"regularizer.offload = {str(first.offload).lower()}")
    place = "" if found.nodes == 1 else f" {who}"
    return f"By these settings it doesn't fit{place}; with {', '.join(changes)} it does{pace}.{now}"


def _missing(found: "Diagnosis") -> str:
    """What is too little of the machine for each of the ways; of the one that takes least."""
    machine = found.machine
    least = min(found.ways, key=lambda way: way.peak_bytes)
    has = f"{machine.memory_bytes / _GIB:.1f} GiB"
    if not machine.names and least.devices > 1:
        has += f" for {least.devices // found.nodes} processes, each of which takes as much"
    told = f"{_gib(least.peak_bytes)} GiB are needed at least, it has {has}"
    if machine.host_bytes is None:
        return told
    host = f"{_gib(least.host_bytes)} GiB of {machine.host_bytes / _GIB:.1f} GiB"
    return f"{told}, and beside them {host} of main memory"
