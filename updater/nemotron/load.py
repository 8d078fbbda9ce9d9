"""How many tokens each routed expert gets, and the correction that evens it out.

Padding is routed like any token, and does not count. Called by `updater.train.fit`.

Shape suffixes: b examples of a batch, l positions, t = b l, k experts of a token, r routers, e
experts.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHForCausalLM,
    NemotronHTopkRouter,
)


def _alone(count: Tensor) -> Tensor:
    return count


class ExpertLoad:
    """What the routers of a model do, counted in a `with` block and on the model's device.

    Call `stepped` after each optimizer step. Nothing is counted of a multi-token-prediction head,
    whose positions are others, nor of what gradient checkpointing computes again.

    `tokens_re`: of all steps that were read, float64; a part of the run's state, to be saved with
    it.

    Args:
        model: as it is trained.
        padding: the token that batches are padded with.
        total: the sum over all processes that train the model, each with tokens of its own.
    """

    def __init__(
        self,
        model: NemotronHForCausalLM,
        *,
        padding: int,
        total: Callable[[Tensor], Tensor] = _alone,
    ) -> None:
        self._model, self._padding, self._total = model, padding, total
        self._routers = {
            name: module
            for name, module in model.model.named_modules()
            if isinstance(module, NemotronHTopkRouter)
        }
        # Of all layers in one tensor: one sum over the processes, and not one for each layer.
        shape = (2, len(self._routers), model.config.n_routed_experts)
        self._step_re, self._read_re = torch.zeros(shape, dtype=torch.float64, device=model.device)
        self.tokens_re = torch.zeros(shape[1:], dtype=torch.float64, device=model.device)
        self._step = dict(zip(self._routers, self._step_re, strict=True))
        self._inside_t: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "ExpertLoad":
        trunk = self._model.model
        look = trunk.register_forward_pre_hook(self._look, with_kwargs=True)
        look_away = trunk.register_forward_hook(self._look_away, always_call=True)
        counters = [
            router.register_forward_hook(self._counter(name))
            for name, router in self._routers.items()
        ]
        self._handles = [look, look_away, *counters]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def stepped(self, rate: float = 0.0) -> None:
        """A step is over: each router's correction bias is `rate` nearer to an even load, up for
        experts that had less than the mean in it, down for those that had more.

        Loss-free balancing (Wang et al. 2024, arXiv 2408.15664, algorithm 1), as DeepSeek-V3 and
        Nemotron 3 were trained with, at 1e-3 a step. The bias chooses experts, and does not weigh
        what they say.
        """
        if rate:
            counts = self._total(self._step_re)
            for router, count in zip(self._routers.values(), counts, strict=True):
                bias: Tensor = router.e_score_correction_bias
                bias.add_((count.mean() - count).sign(), alpha=rate)
        self._read_re += self._step_re
        self._step_re.zero_()

    def read(self) -> dict[str, float]:
        """Over all layers, of the steps since it was last read: `busiest`, how many times the mean
        of its layer the busiest expert had, and `idle`, the part of the experts that had nothing,
        in [0, 1]. Nothing of a model without experts, or where there was no step. Each process has
        to ask."""
        if not self._routers:
            return {}
        counts_re = self._total(self._read_re)
        self.tokens_re += counts_re
        counts_re = counts_re.cpu()
        self._read_re = torch.zeros_like(self._read_re)
        if not bool(counts_re.any()):
            return {}
        busiest = (counts_re.amax(1) / counts_re.mean(1)).max()
        return {"busiest": float(busiest), "idle": float((counts_re == 0).double().mean())}

    def tokens(self) -> dict[str, list[int]]:
        """Layer, by its released name -> how many tokens each of its experts got, over all
        processes and all steps that were read."""
        names = [f"backbone.{name.removesuffix('.mixer.gate')}" for name in self._routers]
        return dict(zip(names, self.tokens_re.long().tolist(), strict=True))

    def _look(self, _model: nn.Module, _inputs: object, given: Mapping[str, Any]) -> None:
        self._inside_t = (given["input_ids"] != self._padding).double().flatten()

    def _look_away(self, *_: object) -> None:
        self._inside_t = None

    def _counter(self, name: str) -> Callable[..., None]:
        def count(_router: nn.Module, _inputs: object, output: tuple[Tensor, ...]) -> None:
            if self._inside_t is None:  # computed again, on the way back
                return
            chosen_tk = output[2]
            spread_tk = self._inside_t[:, None].expand_as(chosen_tk)
            self._step[name].scatter_add_(0, chosen_tk.flatten(), spread_tk.flatten())

        return count
