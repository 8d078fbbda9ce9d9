"""Asked before a step loads a model: has this machine what the update takes?

The reckoning is `updater.doctor`'s. Called by the steps importance and train, and by rehearse where
the base answers, for each may be the first that does.
"""

import dataclasses

from store.ledger import Update
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
    if training.packing:
        from updater.nemotron import packing

        packing.check()
    if training.num_processes > 1:
        from updater.launch import processes

        processes.check(training)
    if update.base is None:
        return
    settings = workspace.settings
    regularizer = settings.regularizer
    if update.kind == "compress":
        if settings.compression.remove != "weights":
            return  # what learns again is smaller, and not there yet
        base = uncompressed(workspace, workspace.ledger.model_version(update.base))
        folder = workspace.checkpoints.local(base.digest)
        regularizer = dataclasses.replace(regularizer, method="none")  # nothing holds it
    else:
        folder = start_folder(workspace, update.base)
    from updater.doctor import refuse_too_large

    refuse_too_large(folder, training=training, regularizer=regularizer)
