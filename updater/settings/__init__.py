"""Every setting, with its default and its rule. The one source of a default is the field here.

Plain frozen dataclasses of the standard library, so that the training core can take them without
the service's dependencies. `updater.config` reads `updater.toml` into them. A rule that is broken
raises `ValueError("field: rule")`, which `updater.config` turns into an `InputError` that names
the file, the value and the cure.

Units: `_fraction` and `fraction` are 0..1, `_seconds` seconds, `_tokens` tokens.
"""

from updater.settings.compression import (
    PRUNINGS,
    RECOVERIES,
    CompressionSettings,
)
from updater.settings.data import (
    CALENDAR,
    FORMATS,
    NAME,
    PERIOD_ID,
    FieldTemplates,
    PeriodSettings,
    SourceSettings,
    WorkspaceSettings,
)
from updater.settings.kubernetes import KubernetesSettings
from updater.settings.learning import (
    AUTO,
    PLACES,
    POLICIES,
    ModelSettings,
    RehearsalSettings,
    ScratchSettings,
    TrainingSettings,
)
from updater.settings.passwords import password_in, without_password
from updater.settings.regularizing import (
    ESTIMATORS,
    IMPORTANCE_FORMATS,
    REGULARIZERS,
    RegularizerSettings,
)
from updater.settings.rules import MOST
from updater.settings.search import SEARCHED, SearchSettings
from updater.settings.service import (
    PLACEHOLDER,
    EvaluationSettings,
    GateSettings,
    StoreSettings,
)
from updater.settings.whole import Settings, lora_refusal

__all__ = [
    "AUTO",
    "CALENDAR",
    "ESTIMATORS",
    "FORMATS",
    "IMPORTANCE_FORMATS",
    "MOST",
    "NAME",
    "PERIOD_ID",
    "PLACEHOLDER",
    "PLACES",
    "POLICIES",
    "PRUNINGS",
    "RECOVERIES",
    "REGULARIZERS",
    "SEARCHED",
    "CompressionSettings",
    "EvaluationSettings",
    "FieldTemplates",
    "GateSettings",
    "KubernetesSettings",
    "ModelSettings",
    "PeriodSettings",
    "RegularizerSettings",
    "RehearsalSettings",
    "ScratchSettings",
    "SearchSettings",
    "Settings",
    "SourceSettings",
    "StoreSettings",
    "TrainingSettings",
    "WorkspaceSettings",
    "lora_refusal",
    "password_in",
    "without_password",
]
