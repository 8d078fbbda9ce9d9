"""Which old examples an update shows again, by any policy: one table of them.

For the pipeline and for studies alike; `window.load` reads what was chosen. A new policy that
weighs periods is a line in `policies.POLICIES`, any other one a line here.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from rehearsal import policies, reservoir, scored, strata
from rehearsal.manifest import Manifest, check, plan
from rehearsal.policies import Past
from rehearsal.request import Request
from rehearsal.scored import Score
from rehearsal.window import Locate

Chooser = Callable[[Sequence[Past], Request, Locate, Score | None], Manifest]


def _windows(
    past: Sequence[Past], request: Request, locate: Locate, score: Score | None
) -> Manifest:
    return plan(past, policy=request.policy, budget=request.budget, cursors=request.cursors)


POLICIES: Mapping[str, Chooser] = MappingProxyType(
    {
        **dict.fromkeys(policies.POLICIES, _windows),
        "reservoir": lambda past, request, locate, score: reservoir.choose(past, request, locate),
        "class_balanced": lambda past, request, locate, score: strata.choose(past, request, locate),
        **dict.fromkeys(scored.DRAWS, scored.choose),
    }
)


def choose(
    past: Sequence[Past], request: Request, *, locate: Locate, score: Score | None = None
) -> Manifest:
    """The manifest of what `request` asks for.

    Which rows depends on the arguments alone; of `score`, which only `hard` and `surprise` call,
    once, on what it says.

    Args:
        past: one for each period already learnt, in any order.
        request: policy, budget, and where the last update left off.
        locate: where a period's `train.parquet` is; the policies of windows open none.
        score: what the model that is to be updated makes of examples.

    Raises:
        ValueError: an unknown policy, a period given twice, a negative size or cursor, no `score`
            where one is needed or a broken one, or a file that is damaged or another version's.
        OSError: a file is not there or may not be read.
    """
    if request.policy not in POLICIES:
        raise ValueError(f"policy is {request.policy!r}: must be one of {', '.join(POLICIES)}")
    check(past, request.cursors)
    return POLICIES[request.policy](past, request, locate, score)
