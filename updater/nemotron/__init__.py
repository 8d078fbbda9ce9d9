"""Nemotron 3 (Nemotron-H) checkpoints: make, check, load, export. No training and no judgement.

`presets` holds shapes, `layout` the released tensor names, `files` reads safetensors headers,
`checkpoint` makes, loads and exports folders, `experts` guards experts that saw no token. `parts`
tells what can go as a whole, and `smaller` makes the checkpoint without it.
Called by `updater.train`, `updater.evaluate` and the steps of `updater.pipeline`.
"""
