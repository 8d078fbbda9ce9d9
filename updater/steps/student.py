"""A model and its tokenizer as the steps ask it: in memory, or a checkpoint that is loaded for it,
by this process or by as many as train.

Not its training (`updater.steps.train`) and not what an answer is (`updater.evaluate`). torch is
imported when there is one, not before.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from updater.progress import Progress
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM


class Student(NamedTuple):
    """As it stands in memory."""

    model: "NemotronHForCausalLM"
    tokenizer: "PreTrainedTokenizerFast"

    def outcomes(
        self,
        workspace: Workspace,
        examples: "pa.Table",
        *,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> "pa.Table":
        """What it says to the examples: `updater.evaluate.outcomes`, by the workspace's
        settings."""
        from updater.evaluate import outcomes

        settings = workspace.settings
        return outcomes(
            *self,
            examples,
            batch_size=settings.evaluation.batch_size,
            max_length_tokens=settings.model.max_length_tokens,
            on_progress=on_progress,
        )


def checkpoint_of(workspace: Workspace, version: str) -> Path:
    """The folder of the model version's checkpoint.

    Raises:
        NotFoundError: it is gone.
    """
    return workspace.checkpoints.local(workspace.ledger.model_version(version).digest)


def answers(
    workspace: Workspace,
    who: Student | Path,
    tables: "Mapping[str, pa.Table]",
    watch: Stopwatch,
    *,
    progress: bool = False,
) -> "dict[str, pa.Table]":
    """What a student, or the checkpoint in a folder, says to each table, under the table's name.
    `watch` is told how long the forward passes took.

    Raises:
        InputError, UpdateError: the folder is no checkpoint, or the processes crashed.
    """
    if isinstance(who, Path) and workspace.settings.training.beside_training.num_processes > 1:
        return _together(workspace, who, tables, watch, progress=progress)
    if isinstance(who, Path):
        from updater.nemotron.dtypes import load_as_served

        who = Student(*load_as_served(who))
    found = {}
    num_examples = sum(examples.num_rows for examples in tables.values())
    num_done = 0
    with Progress("evaluate", num_examples, shown=progress) as shown:
        for name, examples in tables.items():
            with watch:
                found[name] = who.outcomes(workspace, examples, on_progress=shown.update)
            num_done += examples.num_rows
            shown.reach(num_done)  # those that are too long were not asked
    return found


def _together(
    workspace: Workspace,
    folder: Path,
    tables: "Mapping[str, pa.Table]",
    watch: Stopwatch,
    *,
    progress: bool,
) -> "dict[str, pa.Table]":
    from updater.launch import together
    from updater.launch.task import Asking

    settings = workspace.settings
    training = settings.training.beside_training
    task = Asking(
        checkpoint=folder,
        names=tuple(tables),
        sharded=training.sharded,
        batch_size=settings.evaluation.batch_size,
        max_length_tokens=settings.model.max_length_tokens,
        gather_bytes=training.gather_bytes,
    )
    about = hashlib.sha256("\n".join([str(folder), *tables]).encode()).hexdigest()
    asked = workspace.root / "cache" / f"asked-{about[:16]}"
    with together.passing(asked):
        found = together.outcomes(
            task, tables, training, folder=asked, calls=workspace.calls, progress=progress
        )
    watch.seconds += found.seconds
    return dict(found.outcomes)
