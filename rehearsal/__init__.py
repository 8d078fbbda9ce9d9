"""Which old examples to show again: quotas, windows in hash order, manifests, mixed batches.

Not the storage of examples (that is `store.datasets`) and not training. No torch but in `mix`.
"""
