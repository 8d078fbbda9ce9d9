"""Asked before a step loads a model: has this machine what the update takes?

The reckoning is `updater.doctor`'s. Called by the steps importance and train, and by rehearse where
the base answers, for each may be the first that does; of a compression before it is opened.
"""

import dataclasses

from store.ledger import ModelVersion, Update
from updater.settings import TrainingSettings
from updater.steps.start import start_folder, uncompressed
from updater.steps.trainings import training_of
from updater.workspace import Workspace


def check(workspace: Workspace, update: Update) -> None:
    """It may have, as far as can be told without training.

    Raises:
        InputError: it has not the devices or the kernels that the settings ask for, or the base is
            too large.
    """
    training = training_of(workspace, update)
    _check_means(training)
    if update.base is not None:
        from updater.doctor import refuse_too_large

        refuse_too_large(
            start_folder(workspace, update.base),
            training=training,
            regularizer=workspace.settings.regularizer,
        )


def check_recovery(workspace: Workspace, version: ModelVersion) -> None:
    """As `check`, of what is left of the version after compression and learns again: by nothing
    that holds it. Where whole parts go it is smaller, and not there yet to be reckoned.

    Raises:
        InputError: as `check`.
    """
    settings = workspace.settings
    if settings.compression.recovery == "none":
        return
    _check_means(settings.training)
    if settings.compression.remove == "weights":
        from updater.doctor import refuse_too_large

        refuse_too_large(
            workspace.checkpoints.local(uncompressed(workspace, version).digest),
            training=settings.training,
            regularizer=dataclasses.replace(settings.regularizer, method="none"),
        )


def _check_means(training: TrainingSettings) -> None:
    if training.packing:
        from updater.nemotron import packing

        packing.check()
    if training.num_processes > 1:
        from updater.launch import processes

        processes.check(training)
