"""The steps of an update, one module each: `run(workspace, update) -> dict`, a JSON-able result.

A step reads what the steps before it recorded, calls the engine that does the work, and returns
what `updater.pipeline` writes to the ledger as the step's result: that record is what makes the
step finished. A step that is killed and run again must come to the same result.
"""
