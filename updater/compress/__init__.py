"""What of a checkpoint goes, and making the smaller one.

`engine` does it. `evidence` looks at a model at work, `damage` at a model without some of its
parts, both for the criteria of `compression`, which know no model.
"""
