"""How large what comes into each matrix gets, on some examples.

FP8 and NVFP4 quantize inputs by scales that lie in the checkpoint, each made of the largest
absolute value that was seen (ModelOpt's `max` calibration; NVIDIA took 256 examples for Super's
FP8). What is larger when it is served is cut off there. Called before `write`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHExperts,
    NemotronHForCausalLM,
)

from updater.nemotron.packed import stem
from updater.nemotron.weights import released_name


@torch.no_grad()
def largest_inputs(model: NemotronHForCausalLM, batches: Iterable[Tensor]) -> dict[str, float]:
    """By a module's released name, the largest absolute value that came into it.

    A layer's experts have one for all of them, which is what serving stacks make of theirs: also an
    expert that no token went to has one.

    Args:
        model: in evaluation mode, unquantized.
        batches: token ids, int64 (examples, positions), as many as fit its device at a time.
    """
    with _watched(model) as seen:
        for ids in batches:
            model(input_ids=ids.to(model.device), use_cache=False)
    return {name: float(largest) for name, largest in seen.items()}


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    handles = []

    def watch(names: list[str]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest = inputs[0].abs().amax()
            for name in names:
                seen[name] = torch.maximum(seen.get(name, largest), largest)

        return look

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            names = [stem(released_name(f"{name}.weight"))]
            handles.append(module.register_forward_pre_hook(watch(names)))
        elif isinstance(module, NemotronHExperts):
            up, down = (
                [stem(released_name(f"{name}.{kind}", e)) for e in range(module.num_experts)]
                for kind in ("up_proj", "down_proj")
            )
            handles.append(module.register_forward_pre_hook(watch(up)))
            # What comes out of the activation goes into the second projection.
            look = watch(down)
            handles.append(
                module.act_fn.register_forward_hook(lambda m, _, out, look=look: look(m, (out,)))
            )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
