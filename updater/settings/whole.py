"""All sections together, and the rules that hold between them."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from updater.settings.compression import CompressionSettings
from updater.settings.data import PeriodSettings, SourceSettings, WorkspaceSettings
from updater.settings.kubernetes import KubernetesSettings
from updater.settings.learning import (
    ModelSettings,
    RehearsalSettings,
    ScratchSettings,
    TrainingSettings,
)
from updater.settings.passwords import without_password
from updater.settings.regularizing import DEFAULT_STRENGTHS, METHODS, RegularizerSettings
from updater.settings.search import SEARCHED
from updater.settings.service import EvaluationSettings, GateSettings, StoreSettings


def lora_refusal(regularizer: RegularizerSettings) -> str | None:
    """Why it can't hold what LoRA trains, or None: what is read off the training of each full
    weight can't be had where only factors train."""
    if METHODS[regularizer.method].importance == "path":
        return (
            "regularizer.method, training.adapt: si sums each full weight's gradient along the "
            "training, which lora never computes; take ewc, online_ewc, mas or l2, or full"
        )
    if regularizer.is_recorded:
        return (
            "regularizer.estimator, training.adapt: optimizer reads what Adam keeps of each full "
            "weight, and under lora it keeps only the factors'; take empirical or sampled, or full"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration of a workspace."""

    workspace: WorkspaceSettings
    source: SourceSettings
    periods: PeriodSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    rehearsal: RehearsalSettings = field(default_factory=RehearsalSettings)
    regularizer: RegularizerSettings = field(default_factory=RegularizerSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    compression: CompressionSettings = field(default_factory=CompressionSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)

    def __post_init__(self) -> None:
        if self.source.fields.date and not self.periods.every:
            raise ValueError("source.fields.date: needs periods.every; named periods have no dates")
        if bool(self.source.fields.split) != bool(self.periods.holdout_splits):
            raise ValueError(
                "source.fields.split, periods.holdout_splits: must both be given or neither"
            )
        if self.regularizer.method == "agem" and self.training.precision == "16-mixed":
            # Its reference gradient is taken without the scale that float16 needs.
            raise ValueError(
                "regularizer.method, training.precision: agem is trained in 32-true or bf16-mixed"
            )
        if self.regularizer.method == "agem" and self.training.num_processes > 1:
            # Its reference gradient is one process's, and of a part of the examples.
            raise ValueError("regularizer.method, training.devices: agem is trained on one device")
        if self.rehearsal.strata in ("subject", "stratum") and not getattr(
            self.source.fields, self.rehearsal.strata
        ):
            raise ValueError(
                f"rehearsal.strata: {self.rehearsal.strata} needs source.fields."
                f"{self.rehearsal.strata}, which says what it is"
            )
        if self.training.train_thinking and not self.source.fields.messages:
            raise ValueError(
                "training.train_thinking: only conversations have thinking; give"
                " source.fields.messages"
            )
        if self.training.nodes > 1 and not (self.training.rendezvous or self.kubernetes.image):
            raise ValueError(
                "training.nodes, training.rendezvous: several nodes meet at training.rendezvous, "
                'host:port, or "auto" where the others run `updater join`; on Kubernetes '
                "(kubernetes.image) a PyTorchJob says where"
            )
        if self.training.beside_training.nodes > 1 and not self.training.rendezvous:
            raise ValueError(
                "training.nodes_for, training.rendezvous: a PyTorchJob is for the training alone; "
                'for "all" give a rendezvous, "auto" or host:port, and the other nodes run '
                "`updater join`"
            )
        if self.training.adapt == "lora":
            self._check_under_lora()
        self._check_compression()
        self._check_search()

    def _check_compression(self) -> None:
        if self.compression.recovery != "none" and self.training.num_processes > 1:
            raise ValueError(
                "compression.recovery, training.devices: a recovery runs in one process; take"
                " training.devices = 1, or recovery none"
            )
        if self.compression.recovery != "none" and self.training.adapt == "lora":
            raise ValueError(
                "compression.recovery, training.adapt: a recovery trains all weights, for low-rank"
                " factors would fill what went; take full, or recovery none"
            )

    def _check_search(self) -> None:
        """The configured values are a search's first trial, so each must be one that it may try."""
        ranges = self.training.search.ranges
        method = self.regularizer.method
        if "strength" in ranges and method not in DEFAULT_STRENGTHS:
            raise ValueError(
                f"training.search.strength, regularizer.method: the method {method} has no strength"
            )
        if "rehearsal_fraction" in ranges and self.rehearsal.budget is not None:
            raise ValueError(
                "training.search.rehearsal_fraction, rehearsal.budget: fractions are searched, so"
                " rehearsal.fraction must be given and no budget"
            )
        if "rehearsal_fraction" in ranges and self.rehearsal.policy == "none":
            raise ValueError(
                "training.search.rehearsal_fraction, rehearsal.policy: the policy none rehearses"
                " nothing"
            )
        for name, (section, key) in SEARCHED.items():
            low, high = ranges.get(name, (-math.inf, math.inf))
            value = self.searched()[name]
            if not low <= value <= high:
                raise ValueError(
                    f"training.search.{name}, {section}.{key}: the configured value, {value:g},"
                    " must lie in the range, because it is tried first"
                )

    def searched(self) -> dict[str, float]:
        """What a search may change, as it is configured."""
        fraction = self.rehearsal.fraction
        return {
            "strength": self.regularizer.penalty_strength,
            "learning_rate": self.training.learning_rate,
            "rehearsal_fraction": self.rehearsal.DEFAULT_FRACTION if fraction is None else fraction,
        }

    def tuned(self, values: Mapping[str, float]) -> "Settings":
        """The same settings with these `values`, by their names in `SEARCHED`."""
        whole = self
        for name, value in values.items():
            section, key = SEARCHED[name]
            changed = dataclasses.replace(getattr(whole, section), **{key: value})
            whole = dataclasses.replace(whole, **{section: changed})
        return whole

    def _check_under_lora(self) -> None:
        refusal = lora_refusal(self.regularizer)
        if refusal:
            raise ValueError(refusal)

    @property
    def training_from_scratch(self) -> TrainingSettings:
        """How random weights are trained: by `[scratch]`, whole, the routers too."""
        return dataclasses.replace(
            self.training,
            adapt="full",  # random weights have nothing worth a low-rank change
            epochs=self.scratch.epochs,
            learning_rate=self.scratch.learning_rate,
            train_routers=True,
            mtp="keep",  # it has no head
        )

    def as_dict(self) -> dict:
        """The resolved configuration without `store`, `kubernetes` and the source's password: what
        is recorded with an update."""
        whole = dataclasses.asdict(self)
        for section in ("store", "kubernetes"):
            whole.pop(section)
        whole["source"]["uri"] = without_password(self.source.uri)
        return whole
