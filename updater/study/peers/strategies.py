"""Avalanche's strategies, each made of our settings: one entry a strategy.

Their names are in `updater.study.peers.names`. Plugins may be joined by +, as "replay+ewc", which
is how Avalanche composes them; its classes Naive, Replay, EWC, SynapticIntelligence, MAS, LwF, GEM
and AGEM are `SupervisedTemplate` with the plugin and nothing more. `cumulative` and `der` are
classes of their own and stand alone.

Strengths are handed on as the strategy takes them, so one number means different things to them
and to us, and each wants a sweep of its own. EWC: no 1/2, and an importance that squares the
gradient of a batch's mean loss per token, so that it falls with the batch size. MAS: no 1/2, and
an importance that is half the older one and half the newest period's (ours is the sum).
SI: 1/2, and importances clipped at 0.001 (mended on a CPU, see `_SI`). LwF: the mean divergence
per completion token, without temperature^2. DER: alpha is the strength and beta 0.5, that of its
authors (`der++` here; `der` has beta 0), the logits' mean square over all positions, padding too.

Left out: iCaRL, CoPE, PackNet, CWR*, BiC, SLDA, GDumb and the multi-head forms, which need classes
or heads of their own; GSS and MIR, which copy or step the model for every batch.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch.nn import functional

from updater.settings import RegularizerSettings
from updater.study.peers import library
from updater.study.peers.names import parts
from updater.study.peers.tokens import Answering, AnsweringEverywhere, Criterion, likelihood


@dataclass(frozen=True)
class Means:
    """What a strategy may have: `budget` examples of memory in all, `num_past` periods to remember
    at the last update, `batch_size`, and the regularizer's settings."""

    budget: int
    num_past: int
    batch_size: int
    regularizer: RegularizerSettings

    @property
    def per_period(self) -> int:
        """Examples of memory a period, where a strategy shares it out once and for all."""
        return max(self.budget // self.num_past, 1)


class _LwF(library.LwFPlugin):
    """Avalanche's, with the whole vocabulary as the classes known: a language model's answer is
    one distribution over all of it, at every token."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        everything = set(range(strategy.model.model.config.vocab_size))
        self.lwf.prev_classes_by_task[0] = everything


class _SI(library.SynapticIntelligencePlugin):
    """Avalanche's, with copies of the weights that it compares with. Its own `.detach().cpu()`
    copies on a GPU alone: on a CPU the old weights are the new ones, so that in 0.6.0 no path is
    measured there and the penalty is 0, whatever the strength."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        _copied(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, **kwargs)
        _copied(self.syn_data["old_theta"])


def _copied(weights: Mapping[str, library.ParamData]) -> None:
    for one in weights.values():
        one.data = one.data.clone()


class _Replay(library.ReplayPlugin):
    """Avalanche's, without the warning that its own call of its own buffer brings."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)


def _ewc(means: Means) -> library.EWCPlugin:
    return library.EWCPlugin(means.regularizer.strength, mode="separate")


def _online_ewc(means: Means) -> library.EWCPlugin:
    regularizer = means.regularizer
    return library.EWCPlugin(regularizer.strength, mode="online", decay_factor=regularizer.decay)


PLUGINS: Mapping[str, Callable[[Means], library.SupervisedPlugin]] = MappingProxyType(
    {
        "replay": lambda means: _Replay(mem_size=means.budget),
        "ewc": _ewc,
        "online_ewc": _online_ewc,
        "si": lambda means: _SI(means.regularizer.strength, eps=means.regularizer.damping),
        "mas": lambda means: library.MASPlugin(lambda_reg=means.regularizer.strength),
        "lwf": lambda means: _LwF(means.regularizer.strength, means.regularizer.temperature),
        # memory_strength 0.5 as in Lopez-Paz & Ranzato 2017, section 5.
        "gem": lambda means: library.GEMPlugin(means.per_period, memory_strength=0.5),
        # It draws batch_size / periods of each: of more periods than that, one of each.
        "agem": lambda means: library.AGEMPlugin(
            means.per_period, sample_size=max(means.batch_size, means.num_past + 1)
        ),
    }
)


def wrapped(strategy: str, model: Any) -> tuple[Answering, Criterion]:
    """The model as the strategy calls it, and the criterion that goes with its answer."""
    if strategy in ("der", "der++"):
        return AnsweringEverywhere(model), functional.cross_entropy
    return Answering(model), likelihood


def build(
    strategy: str, means: Means, plugins: list[library.SupervisedPlugin], **common: Any
) -> library.SupervisedTemplate:
    """The strategy object, with `plugins` after its own.

    Args:
        common: model, optimizer, criterion, train_mb_size, train_epochs, device, evaluator.
    """
    with warnings.catch_warnings():
        # Ours is the evaluation, so theirs has no loggers.
        warnings.filterwarnings("ignore", "No loggers specified", UserWarning)
        return _built(parts(strategy), means, plugins, common)


def _built(
    names: tuple[str, ...],
    means: Means,
    plugins: list[library.SupervisedPlugin],
    common: dict[str, Any],
) -> library.SupervisedTemplate:
    if names == ("cumulative",):
        return library.Cumulative(plugins=plugins, **common)
    if names[0] in ("der", "der++"):
        return library.DER(
            mem_size=means.budget,
            batch_size_mem=min(means.batch_size, means.budget),
            alpha=means.regularizer.strength,
            beta=0.5 if names[0] == "der++" else 0.0,
            plugins=plugins,
            **common,
        )
    own = [PLUGINS[name](means) for name in names if name != "naive"]
    return library.SupervisedTemplate(plugins=[*own, *plugins], **common)
