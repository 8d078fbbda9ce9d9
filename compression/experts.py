"""Which routed experts can go, by what the router gives them and what they say.

Counts over batches; which modules to look at, the caller knows. Scores are of the experts of one
layer among themselves. Not their removal (`compression.parts`).

Shape suffixes: t tokens, k experts of a token, e experts.
"""

import torch
from torch import Tensor


class ExpertEvidence:
    """What a layer's experts did with the tokens that came to them. `tokens_e` int64, and
    `said_e` float64: the sum of gate times norm over those tokens."""

    def __init__(self, num_experts: int) -> None:
        self.tokens_e = torch.zeros(num_experts, dtype=torch.int64)
        self.said_e = torch.zeros(num_experts, dtype=torch.float64)

    def add(self, chosen_tk: Tensor, gates_tk: Tensor, norms_tk: Tensor) -> None:
        """The tokens of one more batch.

        Args:
            chosen_tk: int64, the experts of each token.
            gates_tk: by what each one's answer is weighed: the router's own last word, for
                Nemotron-H a sigmoid of the logits without the correction bias, over its sum of the
                chosen ones where `norm_topk_prob` says so. A factor that is the same for all
                changes no order.
            norms_tk: the Euclidean norm of each one's answer before it is weighed.

        Raises:
            ValueError: the three have not one shape, or an expert that there is not was chosen.
        """
        if not chosen_tk.shape == gates_tk.shape == norms_tk.shape:
            shapes = ", ".join(str(tuple(one.shape)) for one in (chosen_tk, gates_tk, norms_tk))
            raise ValueError(f"experts, gates and norms have shapes {shapes}: must be one")
        chosen = chosen_tk.flatten().cpu()
        strange = chosen[(chosen < 0) | (chosen >= len(self.tokens_e))]
        if len(strange):
            last = len(self.tokens_e) - 1
            raise ValueError(f"expert {int(strange[0])} was chosen: must be 0 to {last}")
        self.tokens_e += torch.bincount(chosen, minlength=len(self.tokens_e))
        said = (gates_tk.double() * norms_tk.double()).flatten().cpu()
        self.said_e.scatter_add_(0, chosen, said)

    def reap(self) -> Tensor:
        """float64 (e,): the mean of gate times norm over an expert's own tokens (Lasby et al. 2025,
        arXiv 2510.13999, "router-weighted expert activation pruning"). 0 of one that had none."""
        return self.said_e / self.tokens_e.clamp(min=1)

    def frequency(self) -> Tensor:
        """float64 (e,): the share of all choices, which sums to 1; what REAP is compared with."""
        return self.tokens_e.double() / max(1, int(self.tokens_e.sum()))
