"""Who may work at a study at the same time: one process at the whole of it, or several at different
arms (`updater study FILE --only ARM`, each on its own machine where the workspace is shared).

What the arms share, first models and the data that is held back, is made by one of them while the
others wait. Called by `updater.study.conduct`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from updater.study.plan import Study
from updater.workspace import Workspace


@contextmanager
def at_work(workspace: Workspace, study: Study, only: Sequence[str]) -> Iterator[None]:
    """Nobody else works at these arms; of the whole study where `only` names none.

    Raises:
        UpdateError: somebody does.
    """
    place = _place(workspace, study)
    with ExitStack() as held:
        held.enter_context(workspace.lock(f"{place}/.lock", shared=bool(only)))
        for arm in sorted(set(only)):
            held.enter_context(workspace.lock(f"{place}/.arm-{arm}.lock"))
        yield


@contextmanager
def preparing(workspace: Workspace, study: Study) -> Iterator[None]:
    """Nobody else makes what the arms share; waits until nobody does."""
    with workspace.lock(f"{_place(workspace, study)}/.first.lock", wait=True):
        yield


def _place(workspace: Workspace, study: Study) -> str:
    place = f"studies/{study.name}"
    (workspace.root / place).mkdir(parents=True, exist_ok=True)
    return place
