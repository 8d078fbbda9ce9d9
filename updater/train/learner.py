"""The optimizer step as Lightning calls it: loss, anchor, clipping, AdamW, idle experts put back.

Not the run (`updater.train.fit` sets it up) and not its bookkeeping (`updater.train.record`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.path import Path
from updater.nemotron.experts import IdleExperts
from updater.nemotron.load import ExpertLoad
from updater.nemotron.weights import CORRECTION_BIAS
from updater.settings import TrainingSettings
from updater.train.guards import Guards
from updater.train.ranks import ALONE, Ranks
from updater.train.record import Record
from updater.train.schedule import MicroBatch, rate_fraction
from updater.train.state import Live


class Learner(LightningModule):
    """One model under training. `trained` are the parameters that take a gradient, by their
    in-memory names, `moved` the buffers that change without one. `record` is set by the caller
    before the first step, and `path`, if one is recorded."""

    def __init__(
        self,
        model: NemotronHForCausalLM,
        training: TrainingSettings,
        *,
        num_steps: int,
        guards: Guards,
        load: ExpertLoad,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.model = model
        self._named = dict(model.named_parameters())
        self.trained = {n: p for n, p in self._named.items() if p.requires_grad}
        self.moved = {
            name: buffer
            for name, buffer in model.named_buffers()
            if training.router_bias_rate and name.endswith(CORRECTION_BIAS)
        }
        self.optimizer = adamw(self.trained, training)
        counted = {"tokens_of_experts": load.tokens_re} if load.tokens_re.numel() else {}
        self.live = Live(self.trained, {**self.moved, **counted}, self.optimizer)
        self.record: Record
        self._training, self._num_steps, self._guards = training, num_steps, guards
        self._load, self.ranks = load, ranks
        self._idle = IdleExperts(self.trained, lora_rank=training.lora_rank)
        self.optimizer.idle = self._idle
        self.path: Path | None = None

    def let_go(self) -> None:
        """Nothing of the model is held here any more. Lightning's trainer and this learner refer to
        each other, and would keep all weights in memory until Python looks for such cycles: long
        after the next model was loaded beside them, perhaps."""
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()
        self.optimizer.idle = None
        self.__dict__.clear()

    def measured(self) -> dict[str, float]:
        """The anchor's penalty at the present weights, and how the experts were loaded since it was
        last asked."""
        load = {f"experts_{name}": value for name, value in self._load.read().items()}
        return {"penalty": float(self._guards.anchor.penalty(self._named)), **load}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one optimizer, made before, so that a saved state could be put into it."""
        return self.optimizer

    def transfer_batch_to_device(
        self, batch: MicroBatch, device: torch.device, dataloader_idx: int
    ) -> MicroBatch:
        """The same batch with its tensors on `device`."""
        return batch.to(device)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> torch.Tensor:
        """The loss of this process's part of one micro-batch, float32."""
        objected = self._guards.objective.loss(self.model, batch)
        self.record.saw(batch, objected.sums_b, objected.counts_b)
        return objected.loss * self.ranks.loss_scale

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The anchor pulls, once per step: the loss's gradient is accumulated and unscaled, and
        not yet clipped."""
        self.ranks.sum_gradients(self.trained.values())
        self._guards.objective.before_step(self._named)
        self._idle.find()  # an expert that a projection moves is not idle
        if self.path is not None:
            self.path.before_step()
        self._guards.anchor.add_gradient(self._named)
        self._idle.silence()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of the whole gradient. Lightning's own refuses before a fused step under any
        mixed precision, though only float16's is one whose gradient is not unscaled yet."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.trained.values(), gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimizer step at its learning rate; idle experts stay; the step is recorded."""
        step = self.record.counters.num_steps
        rate = self._training.learning_rate * rate_fraction(step, self._num_steps, self._training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        super().optimizer_step(*args, **kwargs)
        self._load.stepped(self._training.router_bias_rate)
        if self.path is not None:
            self.path.after_step()
        # Lightning lets go of them only after the next forward pass, and holds both till then.
        self.optimizer.zero_grad()
        self.record.stepped(rate)


class AdamW(torch.optim.AdamW):
    """torch's. `idle`: experts that its steps leave where they are."""

    idle: IdleExperts | None = None

    def step(self, closure: Any = None) -> Any:
        """One step of all parameters that have a gradient, once the closure has made it."""
        loss = None
        if closure is not None:  # Lightning's has all in it from the forward pass to the clipping
            with torch.enable_grad():
                loss = closure()
        if self.idle is None:
            super().step()
        else:
            self.idle.step(self, super().step)
        return loss


def adamw(parameters: Mapping[str, nn.Parameter], training: TrainingSettings) -> AdamW:
    """AdamW over the parameters. No decay on vectors: norms, biases, A_log, D, dt_bias (Mamba's
    reference and NVIDIA's AutoModel leave those out).

    beta2 0.95 as in NVIDIA's Nemotron 3 recipes.
    """

    def group(chosen: Iterable[nn.Parameter], weight_decay: float) -> dict[str, Any]:
        return {"params": list(chosen), "weight_decay": weight_decay}

    groups = [
        group((p for p in parameters.values() if p.ndim >= 2), training.weight_decay),
        group((p for p in parameters.values() if p.ndim < 2), 0.0),
    ]
    # A fused step unscales float16's gradient by itself, after it was clipped and an anchor pulled.
    fused = training.precision != "16-mixed"
    return AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.95), fused=fused)
