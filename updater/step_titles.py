"""What people read a step as: its name, but where it does something else than that says.

The name is a contract (`updater step NAME`, JSON, the DAGs). Called by whatever prints or draws it.
"""

TITLES = {("compress", "train"): "compress", ("adopt", "train"): "adopt"}
"""(kind of update, step): where nothing is trained, or a recovery alone."""


def title(kind: str, step: str) -> str:
    """The step of such an update in what people read."""
    return TITLES.get((kind, step), step)
