"""The Fisher by which EWC holds weights, asked for by the names that tensors have on the disk.

Nothing is estimated here: `updater.train.importance` has, for the next update to be held by. Called
by `updater.compress.engine`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor

from regularizers.formats import Weight, mapped, whole
from regularizers.importance import as_estimated
from updater.nemotron.weights import is_experts, released_name

_NO_TOKENS: Mapping[str, Sequence[int]] = MappingProxyType({})


class Curvature:
    """Released name -> the Fisher of that tensor's weights, float32, as it was estimated: what the
    loss depends on. EWC's is made comparable between experts, however many tokens came to each,
    which is taken back here: an expert to which none came costs nothing.

    Args:
        tensors: in-memory name -> Fisher, in any format of `regularizers.formats`; experts stacked.
        tokens: as `Importance.tokens`; none where nothing was made comparable.
    """

    def __init__(
        self, tensors: Mapping[str, Weight], tokens: Mapping[str, Sequence[int]] = _NO_TOKENS
    ) -> None:
        self._tensors, self._tokens = tensors, tokens
        self._places = {
            released_name(name, expert): (name, expert)
            for name, fisher in tensors.items()
            for expert in range(fisher.shape[0] if is_experts(name) else 1)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError: none was estimated of that tensor."""
        stored, expert = self._places[name]
        fisher = self._tensors[stored]
        if not is_experts(stored):
            return whole(fisher)
        found = whole(mapped(lambda part: part[expert], fisher))  # and not all of a layer's
        if stored not in self._tokens:
            return found
        return as_estimated(found, self._tokens[stored], expert)
