"""Asked before a step loads a model: has this machine what the update takes?

The refusals are `updater.refusals`'. Called by the steps importance and train, and by rehearse
where the base answers, for each may be the first that does; of a compression, and of what makes a
first version, before it is opened. `check_means`, which asks nothing of the base, also before an
update is opened whose steps all run here.
"""

import dataclasses
from pathlib import Path

from store.ledger import ModelVersion, Update
from updater.settings import TrainingSettings
from updater.steps.start import start_folder, uncompressed
from updater.steps.terms import weighs
from updater.steps.trainings import architecture, training_of
from updater.workspace import Workspace


def check(workspace: Workspace, update: Update) -> None:
    """It may have, as far as can be told without training.

    Raises:
        InputError: it has not the devices or the kernels that the settings ask for, the base has
            no head to align, or it, or what a first version would be, is too large.
    """
    if update.base is None:
        check_first(workspace, update.kind, update.config["arguments"].get("checkpoint", ""))
        return
    training = training_of(workspace, update)
    check_means(training)
    from updater.nemotron import heads
    from updater.nemotron.validate import check as contents_of
    from updater.refusals import refuse_too_large

    folder = start_folder(workspace, update.base)
    if training.mtp == "align":
        contents = contents_of(folder)
        heads.check(training, contents.config, contents.entries, where=str(folder))
    regularizer = workspace.settings.regularizer
    if regularizer.method != "l2" and not weighs(workspace, update):
        regularizer = dataclasses.replace(regularizer, method="none")
    refuse_too_large(folder, training=training, regularizer=regularizer)


def check_first(workspace: Workspace, kind: str, checkpoint: str) -> None:
    """The same of a version without a base, made by `kind`: `adopt` copies the folder `checkpoint`
    and asks it, `scratch` trains from random weights.

    Raises:
        InputError: as `check`.
    """
    from updater.refusals import refuse_first, refuse_unaskable

    settings = workspace.settings
    if kind == "adopt":
        _check_devices(settings.training.beside_training)
        refuse_unaskable(Path(checkpoint), training=settings.training)
        return
    from updater.nemotron.presets import config_fields

    training, shape = settings.training_from_scratch, architecture(workspace)
    check_means(training)
    fields = config_fields(shape, settings.model.vocabulary_size)
    refuse_first(fields, training=training, where=f"model.architecture {shape}")


def check_recovery(workspace: Workspace, version: ModelVersion) -> None:
    """As `check`, of what is left of the version after compression and learns again: by nothing
    that holds it. Where whole parts go it is smaller, and not there yet to be reckoned.

    Raises:
        InputError: as `check`.
    """
    settings = workspace.settings
    if settings.compression.recovery == "none":
        return
    check_means(settings.training)
    if settings.compression.remove == "weights":
        from updater.refusals import refuse_too_large

        refuse_too_large(
            workspace.checkpoints.local(uncompressed(workspace, version).digest),
            training=settings.training,
            regularizer=dataclasses.replace(settings.regularizer, method="none"),
        )


def check_means(training: TrainingSettings) -> None:
    """This machine has what the training asks for, whatever it trains.

    Raises:
        InputError: it has not the devices, or not the kernels.
    """
    if training.packing:
        from updater.nemotron import packing

        packing.check()
    _check_devices(training)


def _check_devices(training: TrainingSettings) -> None:
    if training.num_processes > 1:
        from updater.launch import processes

        processes.check(training)
