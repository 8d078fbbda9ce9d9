"""Every setting, with its default and its rule. The one source of a default is the field here.

Plain frozen dataclasses of the standard library, so that the training core can take them without
the service's dependencies. `updater.config` reads `updater.toml` into them. A rule that is broken
raises `ValueError("field: rule")`, which `updater.config` turns into an `InputError` that names
the file, the value and the cure.

Units: `_fraction` and `fraction` are 0..1, `_seconds` seconds, `_tokens` tokens.
"""

import dataclasses
import math
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rehearsal.request import STRATA, Request
from updater.templates import Template

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
# A period's id becomes a file's name, a git tag and an MLflow key: `man git-check-ref-format`.
PERIOD_ID = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
# What Airflow's cron timetables take; whether a day exists is theirs to say.
CRON = re.compile(
    r"@(hourly|daily|weekly|monthly|quarterly|yearly)|[\w*/,#?-]+([ \t]+[\w*/,#?-]+){4}"
)
CALENDAR = ("day", "week", "month", "quarter", "year")
FORMATS = ("jsonl", "csv", "parquet")
POLICIES = (
    *("none", "uniform", "balanced", "recent", "forgetting"),
    *("reservoir", "class_balanced", "hard", "surprise"),
)
REGULARIZERS = ("none", "l2", "ewc", "online_ewc", "si", "mas", "lwf", "der", "der++", "agem")
ESTIMATORS = ("empirical", "sampled", "optimizer")
TERMS = ("base", "periods")
IMPORTANCE_FORMATS = ("float32", "bfloat16", "factored")
ADAPTATIONS = ("full", "lora")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
APPROVALS = ("auto", "manual")
# As SQLAlchemy reads them: a password may have anything in it, even @.
DATABASE_URL = re.compile(
    r"sqlite:///.+"
    r"|postgresql(\+psycopg)?://(.*@)?(\[[^\]]*\]|[^@/?:]*)(:\d+)?([/?].*)?"
)
SERVER_URL = re.compile(r"https?://(.*@)?(\[[^\]]+\]|[^@/?:]+)(:\d+)?(/.*)?")


# What a search may change: its name in [training.search] -> where it is configured.
SEARCHED = {
    "strength": ("regularizer", "strength"),
    "learning_rate": ("training", "learning_rate"),
    "rehearsal_fraction": ("rehearsal", "fraction"),
}
MOST = 2**31 - 1  # of anything that is counted: what every library takes for a whole number


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: must be one of {', '.join(allowed)}")


def _at_least(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}: must be a finite number of at least {least:g}")
    if isinstance(value, int) and value > MOST:
        raise ValueError(f"{name}: must be at most {MOST}")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be a finite number above 0")


def _fraction(name: str, value: float, *, low_open: bool = False, high_open: bool = False) -> None:
    low_ok = value > 0 if low_open else value >= 0
    high_ok = value < 1 if high_open else value <= 1
    if not (low_ok and high_ok):
        raise ValueError(
            f"{name}: must lie in {'(' if low_open else '['}0, 1{')' if high_open else ']'}"
        )


@dataclass(frozen=True, kw_only=True)
class WorkspaceSettings:
    """`name` is the MLflow experiment and the registered model: [A-Za-z0-9_-], at most 63."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                "name: must be 1 to 63 letters, digits, _ or -, a letter or digit first"
            )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What `scratch` builds. `architecture` is a preset's name or the path of a config.json.

    `tokenizer` is a folder with tokenizer.json; without one a byte-level BPE of
    `vocabulary_size` entries is trained on the first periods. `max_length_tokens` is the longest
    prompt + completion; a longer example is quarantined by training with a count, never cut.
    """

    architecture: str = "nemotron-3-tiny"
    vocabulary_size: int = 2048
    tokenizer: str = ""
    max_length_tokens: int = 512

    def __post_init__(self) -> None:
        _at_least("vocabulary_size", self.vocabulary_size, 300)
        _at_least("max_length_tokens", self.max_length_tokens, 8)


@dataclass(frozen=True, kw_only=True)
class FieldTemplates:
    """Templates over the source's own columns, as in `"{text}\\nIntent:"`. `{{` is a brace."""

    prompt: str
    completion: str
    id: str = ""
    period: str = ""
    date: str = ""
    split: str = ""
    subject: str = ""
    stratum: str = ""

    def __post_init__(self) -> None:
        for name, text in dataclasses.asdict(self).items():
            try:
                columns = Template(text).columns
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if name in ("id", "prompt") and text and not columns:
                raise ValueError(f"{name}: must name at least one column, as in {{column}}")
        for name in ("prompt", "completion"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}: must not be empty")
        if bool(self.period) == bool(self.date):
            raise ValueError("period, date: exactly one of the two must be given")


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """Where rows come from. An empty `format` is read off the suffix. `query` makes `uri` a
    SQLAlchemy URL; it must use the bound parameters :period, or :start and :end."""

    uri: str
    fields: FieldTemplates
    format: str = ""
    query: str = ""

    def __post_init__(self) -> None:
        if self.format:
            _one_of("format", self.format, FORMATS)
        if not self.uri:
            raise ValueError("uri: must not be empty")


@dataclass(frozen=True, kw_only=True)
class PeriodSettings:
    """Named periods by `order`, or calendar ones by `every` in `time_zone`."""

    order: tuple[str, ...] = ()
    every: str = ""
    time_zone: str = "UTC"
    holdout_splits: tuple[str, ...] = ()
    holdout_fraction: float = 0.1
    salt: str = "updater"
    schedule: str = ""

    def __post_init__(self) -> None:
        if bool(self.order) == bool(self.every):
            raise ValueError("order, every: exactly one of the two must be given")
        if self.every:
            _one_of("every", self.every, CALENDAR)
        for period in self.order:
            if not PERIOD_ID.fullmatch(period):
                raise ValueError(
                    f"order: {period!r} must be 1 to 64 letters, digits, ., _ or -, begin with a "
                    "letter or digit, and have no '..', no '.' at its end and no '.lock'"
                )
        if len({period.lower() for period in self.order}) != len(self.order):
            raise ValueError("order: must name every period once, in whatever case")
        try:
            zoneinfo.ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                "time_zone: must be a zone of the IANA database, such as UTC or Europe/Berlin"
            ) from None
        _fraction("holdout_fraction", self.holdout_fraction, low_open=True, high_open=True)
        if self.schedule and not CRON.fullmatch(self.schedule.strip()):
            raise ValueError(
                "schedule: must be a cron expression of five fields, as 0 3 1 * *, or @monthly"
            )


@dataclass(frozen=True, kw_only=True)
class RehearsalSettings:
    """`fraction` of all past train examples, or a `budget` of so many.

    `strata` is what `class_balanced` gives equal numbers of. For `hard` and `surprise` the base
    answers `pool_factor` times the budget. 4, chosen, not measured: a forward pass costs about a
    third of a training step, so with 6 epochs four of them cost a quarter of what training on the
    rehearsed examples does.
    """

    policy: str = "balanced"
    fraction: float | None = None
    budget: int | None = None
    strata: str = "completion"
    pool_factor: int = 4

    DEFAULT_FRACTION = 0.1

    def __post_init__(self) -> None:
        _one_of("policy", self.policy, POLICIES)
        _one_of("strata", self.strata, STRATA)
        _at_least("pool_factor", self.pool_factor, 2)
        if self.fraction is not None and self.budget is not None:
            raise ValueError("fraction, budget: at most one of the two may be given")
        if self.fraction is not None:
            _fraction("fraction", self.fraction)
        if self.budget is not None:
            _at_least("budget", self.budget, 0)

    def examples(self, num_past: int) -> int:
        """How many past examples to rehearse when there are `num_past` of them."""
        if self.policy == "none":
            return 0
        if self.budget is not None:
            return min(self.budget, num_past)
        fraction = self.DEFAULT_FRACTION if self.fraction is None else self.fraction
        return round(fraction * num_past)

    def request(self, num_past: int, *, cursors: Mapping[str, int], seed: int) -> Request:
        """What an update asks for that goes on from `cursors`, of `num_past` examples."""
        return Request(
            policy=self.policy,
            budget=self.examples(num_past),
            cursors=cursors,
            strata=self.strata,
            pool_factor=self.pool_factor,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class RegularizerSettings:
    """`strength` is lambda in strength/2 * sum_i importance_i (theta_i - anchor_i)^2, on top of
    the mean loss per completion token.

    1e4, chosen by measurement on CLINC150 (nemotron-3-tiny, two domains, then a third): beside
    rehearsal 1e2 to 1e5 differ by no more than chance from no anchor at all (past and new
    accuracy within 0.03 of it, one seed), and 1e6 costs 0.01 to 0.02 of both. Without
    rehearsal 1e4 and 1e5 hold 1 and 3 % of the past where fine-tuning alone holds 0.

    `terms` of `ewc`: one, anchored and estimated at the base on all of its past, or one for each
    update so far, anchored and estimated at its version (Kirkpatrick et al. 2017). `decay` (gamma)
    is what `online_ewc` leaves of the older importance at each update, `damping` (xi) what keeps
    `si` from dividing by nothing. `format` is how an importance is kept in memory and on disk.
    `temperature` and `top_k` are of the distilling methods `lwf`, `der` and `der++`, whose
    `strength` weighs the distillation against the likelihood: how the base's answers are softened,
    and how many of each token's logits are kept beside the rest's sum.
    """

    method: str = "ewc"
    strength: float = 1e4
    estimator: str = "empirical"
    num_examples: int = 256
    terms: str = "base"
    decay: float = 1.0
    damping: float = 0.1
    format: str = "float32"
    temperature: float = 2.0
    top_k: int = 32

    def __post_init__(self) -> None:
        _one_of("method", self.method, REGULARIZERS)
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("terms", self.terms, TERMS)
        _one_of("format", self.format, IMPORTANCE_FORMATS)
        _at_least("strength", self.strength, 0)
        _at_least("num_examples", self.num_examples, 1)
        _fraction("decay", self.decay)
        _positive("damping", self.damping)
        _positive("temperature", self.temperature)
        _at_least("top_k", self.top_k, 1)


def _range(name: str, given: tuple[float, ...], *, low_open: bool) -> None:
    if given and not (len(given) == 2 and all(map(math.isfinite, given)) and given[0] < given[1]):
        raise ValueError(f"{name}: must be two numbers, [low, high], low below high, or left out")
    if given and (given[0] <= 0 if low_open else given[0] < 0):
        raise ValueError(f"{name}: must begin {'above' if low_open else 'at or above'} 0")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """`trials` short trainings before each update's own, to choose what stands in the ranges; at 0
    nothing is searched. A range is (low, high), or empty: the configured value stays.

    `holdback_fraction` of the update's train examples, new and rehearsed alike, judge the trials
    and are not learnt by them; 0.2 is chosen, not measured. `epochs_fraction` is a trial's part of
    the epochs.
    """

    trials: int = 0
    holdback_fraction: float = 0.2
    epochs_fraction: float = 1.0
    strength: tuple[float, ...] = ()
    learning_rate: tuple[float, ...] = ()
    rehearsal_fraction: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _at_least("trials", self.trials, 0)
        _fraction("holdback_fraction", self.holdback_fraction, low_open=True, high_open=True)
        _fraction("epochs_fraction", self.epochs_fraction, low_open=True)
        _range("strength", self.strength, low_open=True)
        _range("learning_rate", self.learning_rate, low_open=True)
        _range("rehearsal_fraction", self.rehearsal_fraction, low_open=False)
        if self.rehearsal_fraction:
            _fraction("rehearsal_fraction", self.rehearsal_fraction[1])
        if self.trials and not self.ranges:
            raise ValueError(
                "trials, strength, learning_rate, rehearsal_fraction: a search needs at least one"
                " of the ranges"
            )

    @property
    def ranges(self) -> dict[str, tuple[float, ...]]:
        """Name -> (low, high) of what is searched; nothing at 0 trials."""
        names = ("strength", "learning_rate", "rehearsal_fraction") if self.trials else ()
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to fine-tune. An epoch passes once over the new examples. `max_steps` optimizer steps are
    the most; 0 is no limit.

    `epochs`, `batch_size` and `learning_rate` are chosen by measurement on CLINC150
    (nemotron-3-tiny taught banking and credit_cards, 0.866 right, then kitchen_and_dining with
    half of the past rehearsed): past 0.84, new 0.81; 8 epochs at 1.5e-3 gave 0.83 and 0.80, for a
    third more time. Fine-tuning alone leaves 0.003 of the past. One seed; the standard error of
    each accuracy is 0.01.

    `adapt = "lora"` trains `lora_rank` directions a matrix, scaled by `lora_alpha / lora_rank`, and
    merges them into the weights afterwards; with `lora_experts` in every routed expert too. 8 and
    32 are NVIDIA AutoModel's for Nemotron 3 Nano.
    """

    adapt: str = "full"
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_experts: bool = False
    epochs: int = 6
    max_steps: int = 0
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.05
    decay: str = "cosine"
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    precision: str = "32-true"
    devices: int = 1
    seed: int = 0
    train_routers: bool = False
    checkpoint_every_steps: int = 100
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        _one_of("adapt", self.adapt, ADAPTATIONS)
        if self.adapt == "lora" and self.train_routers:
            raise ValueError("adapt, train_routers: lora has no part for routers; they stay frozen")
        _one_of("decay", self.decay, ("cosine", "linear", "constant"))
        _one_of("precision", self.precision, PRECISIONS)
        counts = ("epochs", "batch_size", "accumulate", "devices", "checkpoint_every_steps")
        for name in (*counts, "lora_rank", "lora_alpha"):
            _at_least(name, getattr(self, name), 1)
        _positive("learning_rate", self.learning_rate)
        _at_least("weight_decay", self.weight_decay, 0)
        _at_least("gradient_clip", self.gradient_clip, 0)
        _fraction("warmup_fraction", self.warmup_fraction, high_open=True)
        _at_least("max_steps", self.max_steps, 0)
        _at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class ScratchSettings:
    """What differs when `scratch` trains from random weights (and that routers are trained).

    Chosen by measurement on two domains of CLINC150, 3,000 examples: 0.83 right after 4 epochs,
    0.86 after 8, at 2e-3; 0.86 at 1e-3 and 0.80 at 4e-3 after 8.
    """

    epochs: int = 8
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        _at_least("epochs", self.epochs, 1)
        _positive("learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """`batch_size` examples a forward pass; `verify_examples` a period re-scored from the exported
    folder in a clean process before a version may be promoted (0: all of them)."""

    batch_size: int = 64
    verify_examples: int = 256

    def __post_init__(self) -> None:
        _at_least("batch_size", self.batch_size, 1)
        _at_least("verify_examples", self.verify_examples, 0)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """`margin_fraction`: how much worse (absolute accuracy) a past period may be."""

    margin_fraction: float = 0.02
    confidence: float = 0.95
    approval: str = "auto"
    approval_timeout_seconds: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        _fraction("margin_fraction", self.margin_fraction, low_open=True, high_open=True)
        if not 0.5 < self.confidence < 1:
            raise ValueError("confidence: must lie in (0.5, 1)")
        _one_of("approval", self.approval, APPROVALS)
        _at_least("approval_timeout_seconds", self.approval_timeout_seconds, 1)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where state lives. Every key also as UPDATER_STORE_URL and so on: secrets only there, and
    never in the digest. A relative SQLite path or folder is relative to the workspace."""

    url: str = "sqlite:///store.db"
    mlflow_uri: str = "sqlite:///mlflow.db"
    mlflow_artifacts: str = ""
    checkpoints: str = "checkpoints"
    dvc_remote: str = ""

    def __post_init__(self) -> None:
        database = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        if not DATABASE_URL.fullmatch(self.url):
            raise ValueError(f"url: must be {database}")
        if not (DATABASE_URL.fullmatch(self.mlflow_uri) or SERVER_URL.fullmatch(self.mlflow_uri)):
            raise ValueError(f"mlflow_uri: must be https://HOST of a server, or {database}")


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
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    store: StoreSettings = field(default_factory=StoreSettings)

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
        if self.rehearsal.strata in ("subject", "stratum") and not getattr(
            self.source.fields, self.rehearsal.strata
        ):
            raise ValueError(
                f"rehearsal.strata: {self.rehearsal.strata} needs source.fields."
                f"{self.rehearsal.strata}, which says what it is"
            )
        if self.training.adapt == "lora":
            self._check_under_lora()
        self._check_search()

    def _check_search(self) -> None:
        """The configured values are a search's first trial, so each must be one that it may try."""
        ranges = self.training.search.ranges
        method = self.regularizer.method
        if "strength" in ranges and method in ("none", "agem"):
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
            "strength": self.regularizer.strength,
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
        """What is read off the training of each full weight can't be had: only factors train."""
        regularizer = self.regularizer
        if regularizer.method == "si":
            raise ValueError(
                "regularizer.method, training.adapt: si sums each full weight's gradient along the "
                "training, which lora never computes; take ewc, online_ewc, mas or l2, or full"
            )
        if regularizer.method in ("ewc", "online_ewc") and regularizer.estimator == "optimizer":
            raise ValueError(
                "regularizer.estimator, training.adapt: optimizer reads what Adam keeps of each "
                "full weight, and under lora it keeps only the factors'; take empirical or "
                "sampled, or full"
            )

    def as_dict(self) -> dict:
        """The resolved configuration without `store` and without the source's password: what is
        recorded with an update."""
        whole = dataclasses.asdict(self)
        whole.pop("store")
        whole["source"]["uri"] = without_password(self.source.uri)
        return whole


def without_password(uri: str) -> str:
    """`uri` with *** in the place of its password, if it has one."""
    password = password_in(uri)
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def password_in(uri: str) -> str:
    """The password that stands in `uri` as written; empty if there is none."""
    try:
        return urlsplit(uri).password or ""
    except ValueError:  # no URL: a path with brackets in it, for example
        return ""
