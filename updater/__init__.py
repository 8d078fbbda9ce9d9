"""The service: learn each new period of data without forgetting the old ones, judge, release.

Imports run one way: cli -> pipeline -> the steps -> {store, rehearsal, regularizers}. This file
imports nothing heavy, so that `updater status` starts fast and the training core stays small.
"""

from updater import kernels_guard, torchao_guard, torchvision_guard

__version__ = "0.1.0"

torchvision_guard.install()
torchao_guard.install()
kernels_guard.install()
