"""The commands by which other machines take part: a cluster's, or one that joins."""

import click

from updater.cli.app import Session, app
from updater.errors import InputError


@app.command()
@click.argument("update")
@click.pass_obj
def pytorchjob(session: Session, update: str) -> None:
    """Print UPDATE's training as a Kubernetes job.

    A manifest of Kubeflow's PyTorchJob, by the sections kubernetes and training: as many pods as
    training.nodes, whose first runs `updater step train`. Nothing is started or changed.

    \b
    Examples: updater pytorchjob 2026-04-1a2b3c4d | kubectl apply -f -
              updater pytorchjob 2026-04-1a2b3c4d --set training.nodes=4
    """
    import yaml

    from updater import pipeline
    from updater.pytorchjob import pytorch_job

    workspace = session.workspace()
    if workspace.settings.training.nodes_for == "all":
        raise InputError(
            'training.nodes_for = "all"',
            "a PyTorchJob is for the training alone, and the other steps would wait for its pods",
            'let pods run `updater join` (docs/parallel.md), or take nodes_for = "training"',
        )
    pipeline.check_step(workspace, "train", update)
    job = pytorch_job(workspace.settings, root=workspace.root, update=update)
    text = yaml.safe_dump(job, sort_keys=False)
    session.answer(job, lambda _: click.echo(text, nl=False))


@app.command()
@click.pass_obj
def join(session: Session) -> None:
    """Take part in what another machine works on.

    Run it on the other machines of training.nodes, as a service or in a terminal, in the same
    workspace, which all of them see under one path. It waits until an update, or whatever else
    works with the model, calls for more machines, starts as many processes as the caller's
    training.devices says, and waits again, until Ctrl-C or SIGTERM. It asks no store.

    \b
    Examples: updater join --workspace /shared/tickets
              CUDA_VISIBLE_DEVICES=0,1 updater join --workspace /shared/tickets
    """
    import signal

    from updater import training_core

    training_core.check("join")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    from updater.launch.join import join as take_part

    take_part(session.workspace(needed=("workspace",)).calls)
