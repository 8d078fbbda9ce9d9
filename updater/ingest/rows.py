"""One row of the source becomes an example, or is quarantined, or is of another period.

Not what only the whole period can show (duplicates, leaks, an id used twice): that is `spool`'s.
Called by `updater.ingest`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from updater.calendars import FIRST_YEAR, LAST_YEAR
from updater.errors import InputError
from updater.ingest.conversations import Conversation, ConversationError, conversation
from updater.ingest.schema import TypeCounts
from updater.periods import Periods
from updater.settings import Settings
from updater.sources import UTF_8_RULE, Batch, Fault
from updater.templates import ABSENT, RenderError, Template

MAX_ID_CHARS = 512
# Chosen, not measured: some hundred times the longest prompt that a model of ours takes.
MAX_TEXT_CHARS = 1_000_000
# Chosen, so that a bad value can be read and the quarantine doesn't swell with it.
MAX_VALUE_CHARS = 10_000
MAX_UNKNOWN_PERIODS = 20


class Example(NamedTuple):
    """`holdout` is None where the split is made by hash. `messages`: of a conversation, all of
    them as JSON."""

    id: str
    prompt: str
    completion: str
    subject: str | None
    stratum: str | None
    holdout: bool | None
    file: str
    line: int
    messages: str | None = None


class Quarantined(NamedTuple):
    """A row of quarantine.parquet, and whether it is known to be of the period."""

    file: str
    line: int
    field: str
    rule: str
    value: str
    is_placed: bool


class _FaultyError(Exception):
    """Carries a fault out of the row in which it was found."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        self.fault = Fault(field, rule, _show(value))


class Mapper:
    """Maps batches by the templates, and counts what it saw.

    `types` counts the values of the period's own rows; `other_types` those by which the other rows
    were told from them.

    Args:
        settings: of the workspace.
        periods: its periods.
        period: the one that is ingested.
    """

    def __init__(self, settings: Settings, periods: Periods, period: str) -> None:
        fields = settings.source.fields
        self._templates = {name: Template(text) for name, text in vars(fields).items() if text}
        self.has_strata = "stratum" in self._templates
        self.has_messages = "messages" in self._templates
        self._when = "period" if fields.period else "date"
        in_when = {column.name: column for column in self._templates[self._when].columns}
        named = {c.name: c for template in self._templates.values() for c in template.columns}
        self._when_columns = list(in_when.values())
        self._other_columns = [c for name, c in named.items() if name not in in_when]
        self.period = period
        self._holdout_splits = frozenset(settings.periods.holdout_splits)
        # Days and names come again and again; the size is chosen to hold a year of days.
        self._period_of = lru_cache(maxsize=512)(_period_reader(periods, self._when, period))
        self.types: TypeCounts = Counter()
        self.other_types: TypeCounts = Counter()
        self.existing: set[str] = set()
        self.num_rows = self.num_skipped = self.num_unknown_periods = 0
        self.unknown_periods: list[str] = []

    def map(self, batch: Batch) -> tuple[list[Example], list[Quarantined]]:
        """The examples of the wanted period and the rows that can't be one, as they come."""
        examples: list[Example] = []
        quarantined: list[Quarantined] = []
        for line, values in batch.rows:
            is_ours = False
            try:
                if isinstance(values, Fault):
                    raise _FaultyError(*values)
                is_ours = self._is_wanted(values, batch)
                if is_ours:
                    examples.append(self._example(values, batch, line))
                else:
                    self.num_skipped += 1
            except _FaultyError as error:
                quarantined.append(Quarantined(batch.file, line, *error.fault, is_ours))
        self.num_rows += len(batch.rows) + batch.num_pruned
        self.num_skipped += batch.num_pruned
        return examples, quarantined

    def _is_wanted(self, values: Mapping[str, Any], batch: Batch) -> bool:
        """Whether the row is of the period."""
        types = self.other_types
        try:
            is_wanted = self._found(values) == self.period
            types = self.types if is_wanted else types
        finally:
            self._count(self._when_columns, values, batch, types)
        return is_wanted

    def _found(self, values: Mapping[str, Any]) -> str | None:
        """The row's period, as `_period_reader` says; notes one that nobody knows."""
        text = self._render(self._when, values)
        try:
            found = self._period_of(text)
        except InputError as error:
            raise _FaultyError(self._when, error.rule, text) from None
        except (ValueError, OverflowError):
            rule = f"must be a date in ISO 8601, of the years {FIRST_YEAR} to {LAST_YEAR}"
            raise _FaultyError(self._when, rule, text) from None
        if found is None:
            self.num_unknown_periods += 1
            if text not in self.unknown_periods:
                first = sorted([*self.unknown_periods, _readable(text)])
                self.unknown_periods = first[:MAX_UNKNOWN_PERIODS]
        return found

    def _example(self, values: Mapping[str, Any], batch: Batch, line: int) -> Example:
        self._count(self._other_columns, values, batch, self.types)
        holdout = None
        if "split" in self._templates:
            holdout = self._render("split", values) in self._holdout_splits
        messages = None
        if self.has_messages:
            messages, prompt, completion = self._conversation(values)
        else:
            prompt = self._text("prompt", values)
            completion = self._text("completion", values)
        if "id" in self._templates:
            id_ = self._text("id", values, MAX_ID_CHARS)
        else:
            id_ = _content_id(prompt, completion, messages or "")
        subject, stratum = (self._optional(field, values) for field in ("subject", "stratum"))
        place = (batch.file, line)
        return Example(id_, prompt, completion, subject, stratum, holdout, *place, messages)

    def _conversation(self, values: Mapping[str, Any]) -> Conversation:
        [column] = self._templates["messages"].columns
        value = column.value(values)
        value = None if value is ABSENT else value
        try:
            found = conversation(value)
        except ConversationError as error:
            raise _FaultyError("messages", str(error), value) from None
        for text in found:
            self._check_text("messages", text)
        return found

    def _count(
        self, columns: list, values: Mapping[str, Any], batch: Batch, types: TypeCounts
    ) -> None:
        for column in columns:
            value = column.value(values)
            types[column.name, type(value)] += 1
            if value is ABSENT:
                self.existing.update(batch.columns or values)

    def _render(self, field: str, values: Mapping[str, Any]) -> str:
        try:
            return self._templates[field].render(values)
        except RenderError as error:
            rule = f"column {error.column} {error.rule}"
            raise _FaultyError(field, rule, error.value) from None

    def _text(self, field: str, values: Mapping[str, Any], most: int = MAX_TEXT_CHARS) -> str:
        """A rendered text that Parquet, a tokenizer and a database can hold."""
        text = self._render(field, values)
        self._check_text(field, text, most)
        return text

    @staticmethod
    def _check_text(field: str, text: str, most: int = MAX_TEXT_CHARS) -> None:
        if len(text) > most:
            raise _FaultyError(field, f"must be at most {most} characters", text)
        if text.isspace():
            raise _FaultyError(field, "must not be blank", text)
        if "\0" in text:
            raise _FaultyError(field, "must not hold the character NUL", text)
        if not text.isascii() and _readable(text) != text:
            raise _FaultyError(field, UTF_8_RULE, text)

    def _optional(self, field: str, values: Mapping[str, Any]) -> str | None:
        """Whose data it is, or of what kind; None where the row, or the settings, don't say."""
        if field not in self._templates:
            return None
        try:
            return self._text(field, values, MAX_ID_CHARS)
        except _FaultyError as error:
            if error.fault.value.strip():
                raise
            return None


def _period_reader(periods: Periods, when: str, period: str) -> Callable[[str], str | None]:
    """Text -> its period; "" for some other than `period`; None for a name that is not in the
    order. The reader raises a ValueError when the text is malformed."""
    if when == "date":
        return _date_reader(periods, period)
    if periods.every:
        return periods.check
    known = frozenset(periods.order)
    return lambda text: text if text in known else None


def _date_reader(periods: Periods, period: str) -> Callable[[str], str]:
    """As `Periods.of`, at a tenth of its price: a time in the period's bounds is of the period."""
    bounds = periods.bounds(period)
    assert bounds, "a date field goes with calendar periods, as the settings hold"
    start, end = (bound.astimezone(UTC) for bound in bounds)

    def read(text: str) -> str:
        when = datetime.fromisoformat(text)
        if not FIRST_YEAR <= when.year <= LAST_YEAR:
            raise ValueError(f"the year {when.year}")
        if when.tzinfo is None:
            when = when.replace(tzinfo=periods.zone)
        return period if start <= when < end else ""

    return read


def _content_id(prompt: str, completion: str, messages: str) -> str:
    """The id of an example whose source has none: 128 bits of SHA-256, in hex."""
    text = f"{len(prompt)}:{prompt}{completion}{messages}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _show(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, default=repr, ensure_ascii=False)
    return _readable(value[:MAX_VALUE_CHARS])


def _readable(text: str) -> str:
    """`text` with what isn't UTF-8 in it spelt out."""
    return text.encode(errors="backslashreplace").decode()
