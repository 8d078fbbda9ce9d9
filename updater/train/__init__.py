"""Fine-tuning: examples to token batches, the optimizer loop, importance. No files but its own.

`encode` makes batches and the loss, `fit` trains with Lightning, `state` is what survives a kill,
`importance` estimates what the past needs. Called by the steps of `updater.pipeline`.
"""
