"""Nemotron 3 (Nemotron-H) checkpoints: make, check, load, export. No training and no judgement.

`presets` holds shapes, `layout` the released tensor names, `files` reads safetensors headers,
`checkpoint` makes, loads and exports folders, `experts` guards experts that saw no token.
Called by `updater.train`, `updater.evaluate` and the steps of `updater.pipeline`.
"""
