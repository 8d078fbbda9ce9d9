"""How an update is trained: from random weights by other settings than from a base, and in which
shape.

Called by the steps that train, register, or ask whether there is room.
"""

from store.ledger import Update
from updater.settings import TrainingSettings
from updater.workspace import Workspace


def training_of(workspace: Workspace, update: Update) -> TrainingSettings:
    """The settings of this update's training."""
    settings = workspace.settings
    return settings.training if update.kind == "update" else settings.training_from_scratch


def architecture(workspace: Workspace) -> str:
    """The preset's name, or the configured config.json's path with the workspace as its root."""
    given = workspace.settings.model.architecture
    path = workspace.root / given
    return str(path) if path.is_file() else given
