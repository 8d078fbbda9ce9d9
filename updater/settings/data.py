"""Which data, and how it is cut into periods: the sections workspace, source and periods."""

import dataclasses
import re
import zoneinfo
from dataclasses import dataclass

from updater.settings.rules import fraction, one_of
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
class FieldTemplates:
    """Templates over the source's own columns, as in `"{text}\\nIntent:"`. `{{` is a brace.

    `messages`, in the place of prompt and completion, is the column of a conversation, a list of
    {"role", "content"}: its last answer is learnt.
    """

    prompt: str = ""
    completion: str = ""
    messages: str = ""
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
        self._check_text()
        if bool(self.period) == bool(self.date):
            raise ValueError("period, date: exactly one of the two must be given")

    def _check_text(self) -> None:
        if self.messages:
            given = [name for name in ("prompt", "completion") if getattr(self, name)]
            if given:
                raise ValueError(
                    f"messages, {given[0]}: a conversation is prompt and completion; take one out"
                )
            columns = Template(self.messages).columns
            if len(columns) != 1 or self.messages != f"{{{columns[0].name}}}":
                raise ValueError('messages: must name one column and nothing else, as "{messages}"')
            return
        for name in ("prompt", "completion"):
            if not getattr(self, name).strip():
                raise ValueError(
                    f"{name}: must be given, and not be empty, where there are no messages"
                )


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
            one_of("format", self.format, FORMATS)
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
            one_of("every", self.every, CALENDAR)
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
        fraction("holdout_fraction", self.holdout_fraction, low_open=True, high_open=True)
        if self.schedule and not CRON.fullmatch(self.schedule.strip()):
            raise ValueError(
                "schedule: must be a cron expression of five fields, as 0 3 1 * *, or @monthly"
            )
