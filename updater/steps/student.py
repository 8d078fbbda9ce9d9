"""A model and its tokenizer, as the steps load it and ask it.

Not its training (`updater.steps.train`) and not what an answer is (`updater.evaluate`). torch is
imported when there is one, not before.
"""

from typing import TYPE_CHECKING, NamedTuple

from updater.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM


class Student(NamedTuple):
    """As it stands in memory."""

    model: "NemotronHForCausalLM"
    tokenizer: "PreTrainedTokenizerFast"

    @classmethod
    def of(cls, workspace: Workspace, version: str) -> "Student":
        """The model version, loaded.

        Raises:
            NotFoundError, InputError: its checkpoint is gone, or is none.
        """
        from updater.nemotron import checkpoint

        digest = workspace.ledger.model_version(version).digest
        return cls(*checkpoint.load(workspace.checkpoints.local(digest)))

    def outcomes(
        self, workspace: Workspace, examples: "pa.Table", *, progress: bool = False
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
            progress=progress,
        )
