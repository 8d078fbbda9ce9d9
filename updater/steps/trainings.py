"""How an update is trained: from random weights by other settings than from a base.

Called by the steps that train, register, or ask whether there is room.
"""

from store.ledger import Update
from updater.settings import TrainingSettings
from updater.workspace import Workspace


def training_of(workspace: Workspace, update: Update) -> TrainingSettings:
    """The settings of this update's training."""
    settings = workspace.settings
    return settings.training if update.kind == "update" else settings.training_from_scratch
