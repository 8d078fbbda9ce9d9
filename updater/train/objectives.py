"""Which objective a method has: one table.

The quadratic methods hold weights by an anchor (`regularizers.anchor`), and learn the likelihood of
new and rehearsed examples alike. Called where guards are made from the configuration.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.settings import RegularizerSettings
from updater.settings.regularizing import HOLD_WEIGHTS
from updater.train.distilled import RECIPES, Distilled
from updater.train.lesson import Lesson
from updater.train.objective import Likelihood, Objective
from updater.train.projected import Projected


def objective_for(
    settings: RegularizerSettings,
    model: NemotronHForCausalLM,
    lesson: Lesson,
    *,
    progress: bool = True,
) -> Objective:
    """The objective of `settings.method` for one training run on `lesson`.

    Call it before `fit`, with the base's weights in `model`: the distilling methods ask it now for
    the answers that they will hold, and a resumed run must hold those of the base too. `fit` puts
    a saved run's weights in only afterwards.
    """
    return OBJECTIVES[settings.method](settings, model, lesson, progress)


Factory = Callable[[RegularizerSettings, NemotronHForCausalLM, Lesson, bool], Objective]


def _likelihood(
    _settings: RegularizerSettings, _model: NemotronHForCausalLM, _lesson: Lesson, _progress: bool
) -> Objective:
    return Likelihood()


def _distilled(
    settings: RegularizerSettings, model: NemotronHForCausalLM, lesson: Lesson, progress: bool
) -> Objective:
    return Distilled(settings, model, lesson, progress=progress)


def _projected(
    _settings: RegularizerSettings, _model: NemotronHForCausalLM, _lesson: Lesson, _progress: bool
) -> Objective:
    return Projected()


OBJECTIVES: Mapping[str, Factory] = MappingProxyType(
    {
        **dict.fromkeys(("none", *HOLD_WEIGHTS), _likelihood),
        **dict.fromkeys(RECIPES, _distilled),
        "agem": _projected,
    }
)
"""method -> (settings, model, lesson, whether progress is shown) -> objective."""
