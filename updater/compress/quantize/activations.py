"""How large what comes into each matrix gets, on some examples.

FP8 and NVFP4 quantize inputs by scales that lie in the checkpoint, each made of the largest
absolute value that was seen (ModelOpt's `max` calibration; NVIDIA took 256 examples for Super's
FP8). What is larger when it is served is cut off there. Called before `write`.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron.incoming import watched


@torch.no_grad()
def largest_inputs(model: NemotronHForCausalLM, batches: Iterable[Tensor]) -> dict[str, float]:
    """By a module's released name, the largest absolute value that came into it.

    A layer's experts have one for all of them, which is what serving stacks make of theirs: also an
    expert that no token went to has one.

    Args:
        model: in evaluation mode, unquantized.
        batches: token ids, int64 (examples, positions), as many as fit its device at a time.
    """
    seen: dict[str, Tensor] = {}

    def look_of(names: Sequence[str]) -> Callable[[Tensor], None]:
        def look(coming: Tensor) -> None:
            largest = coming.abs().amax()
            for name in names:
                seen[name] = torch.maximum(seen.get(name, largest), largest)

        return look

    handles = watched(model, look_of)
    try:
        for ids in batches:
            model(input_ids=ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(largest) for name, largest in seen.items()}
