"""The processes that train one model together, as one of them sees the others.

Every one of them goes through the same plan and takes its part of each micro-batch; what decides
anything (losses, loads, norms) is summed over all, so that all decide alike. Called throughout
`updater.train`; `updater.launch.worker` makes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh

from regularizers.shards import is_shard


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world` processes. `mesh`: over which the weights are sharded; None: each process
    has them whole."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """The one that writes what all have alike, and that is heard."""
        return self.rank == 0

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by: FSDP takes the mean of the gradients where the sum is
        meant, for each process has its part of a mean over all tokens."""
        return 1.0 if self.mesh is None else float(self.world)

    @torch.no_grad()
    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, each of which must ask; `tensor` itself where it is alone."""
        if self.world == 1:
            return tensor
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Each parameter's `.grad` is the sum over all, where each process has it whole; beside
        shards the mean, as of what is sharded (`loss_scale`), which was added up on the way
        back."""
        if self.world == 1:
            return
        waiting = []
        for parameter in parameters:
            if is_shard(parameter):
                continue
            if parameter.grad is None:  # what no token of this part reached, one of another's may
                parameter.grad = torch.zeros_like(parameter)
            gradient = parameter.grad
            waiting.append((gradient, distributed.all_reduce(gradient, async_op=True)))
        for gradient, work in waiting:
            work.wait()
            if self.mesh is not None:
                gradient.div_(self.world)

    def agreed(self, number: int) -> int:
        """The first one's number."""
        if self.world == 1:
            return number
        box = [number]
        distributed.broadcast_object_list(box)
        return box[0]

    def same(self, tensor: Tensor) -> Tensor:
        """The first one's tensor, in the memory of each one's own, which is returned."""
        if self.world > 1:
            distributed.broadcast(tensor, 0)
        return tensor

    def wait(self) -> None:
        """All have come to this place."""
        if self.world > 1:
            distributed.barrier()


ALONE = Ranks()
"""The one process of a training on one device."""
