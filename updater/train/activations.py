"""What a forward pass keeps for the way back.

Called by `updater.train.loop` and `updater.train.footprint`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM


@contextmanager
def checkpointed(model: NemotronHForCausalLM, *, on: bool) -> Iterator[None]:
    """In the block, if `on`, each layer keeps what came into it and computes the rest again on the
    way back (Chen et al. 2016, arXiv 1604.06174)."""
    if not on:
        yield
        return
    # Not reentrant: that kind loses the gradient of a layer that no trained weight comes before.
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
