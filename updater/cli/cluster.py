"""The command that hands an update's training to a cluster."""

import click

from updater.cli.app import Session, app


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
    pipeline.check_step(workspace, "train", update)
    job = pytorch_job(workspace.settings, root=workspace.root, update=update)
    text = yaml.safe_dump(job, sort_keys=False)
    session.answer(job, lambda _: click.echo(text, nl=False))
