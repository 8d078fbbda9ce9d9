"""What we take from Avalanche 0.6.0, imported in one place.

Only the modules of `updater.study.peers`, when such an arm runs, and benchmarks import this.
"""

from updater.errors import InputError

try:
    from avalanche.benchmarks.scenarios.dataset_scenario import DatasetExperience
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import (
        TaskAwareSupervisedClassificationDataset,
    )
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.training.determinism.rng_manager import RNGManager
    from avalanche.training.plugins import (
        AGEMPlugin,
        EWCPlugin,
        GEMPlugin,
        LwFPlugin,
        MASPlugin,
        ReplayPlugin,
        SupervisedPlugin,
        SynapticIntelligencePlugin,
    )
    from avalanche.training.supervised import DER, Cumulative
    from avalanche.training.templates import SupervisedTemplate
    from avalanche.training.utils import ParamData
except ImportError as error:
    raise InputError(
        f"Avalanche cannot be imported: {error}",
        'an arm of kind "avalanche" runs its strategies',
        "pip install '.[study]'",
    ) from error

__all__ = [
    "DER",
    "AGEMPlugin",
    "ConstantSequence",
    "Cumulative",
    "DataAttribute",
    "DatasetExperience",
    "EWCPlugin",
    "GEMPlugin",
    "LwFPlugin",
    "MASPlugin",
    "ParamData",
    "RNGManager",
    "ReplayPlugin",
    "SupervisedPlugin",
    "SupervisedTemplate",
    "SynapticIntelligencePlugin",
    "TaskAwareSupervisedClassificationDataset",
]
