"""The values of a configuration are gathered from their places, and built into checked settings.

Everything that is wrong is noted and named at once. Called by `updater.config`, which says what the
places are.
"""

import dataclasses
import logging
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from updater import config_torn
from updater.config_keys import (
    Key,
    keys_of,
    leaves,
    nearest,
    sections,
    spell,
    variable,
)
from updater.config_values import Given, discreet, named, show, shown, typed
from updater.errors import InputError, closest, did_you_mean
from updater.settings import Settings, password_in

log = logging.getLogger("updater")

WHERE: tuple[Key, ...] = (
    ("workspace", "name"),
    ("store", "url"),
    ("store", "mlflow_uri"),
    ("store", "checkpoints"),
)
"""What has to be given where a file no longer says it: its default may be another store's."""

NOWHERE = "nowhere"
"""In the place of a section: what is wrong on the command line, or of no section that is known."""


class Problem(NamedTuple):
    """What is wrong, and the section in which it is: "" between several."""

    error: InputError
    section: str


class Option(NamedTuple):
    """A setting for this run, by an option that its command has for it: `name`, as --method."""

    name: str
    key: Key
    value: str


Override = str | Option
"""One setting for this run: what follows --set, or what was typed in its place."""


class Reader:
    """Gathers values from their places, then builds the settings. `problems`: what was wrong.
    `torn`: that the file is no TOML, and `hidden` the needed sections that it might have."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.given: dict[Key, Given] = {}
        self.problems: list[Problem] = []
        self.torn: InputError | None = None
        self.hidden: list[str] = []

    def take_torn(self, text: str | None, error: InputError, needed: Collection[str]) -> None:
        """In the place of `take_file`, of a text that is no TOML, or that there is not."""
        tables, self.hidden = config_torn.readable(text, needed) if text else ([], list(needed))
        for table in tables:
            self.take_file(table)
        self.torn = error
        self.problems.append(Problem(error, ""))

    def take_file(self, table: Mapping[str, Any], section: Key = ()) -> None:
        for name, value in table.items():
            key = (*section, name)
            where = f"{self.path}: {spell(key)}"
            if key in sections() and isinstance(value, dict):
                self.take_file(value, key)
            elif key in sections():
                rule = "it must be a table, its keys below it"
                self._note(key[0], f"{where} is {show(value)}", rule)
            elif key not in leaves():
                self._note(_section_of(key), f"{where} is unknown", *nearest(key))
            else:
                self.given[key] = Given(value, f"{where} = {shown(key, value)}", spell(key))
                self._refuse_secret(key, value, where)

    def _refuse_secret(self, key: Key, value: Any, where: str) -> None:
        """A configuration file is shared and committed: a password in it is everybody's."""
        is_url = key[0] == "store" or key == ("source", "uri")
        if is_url and isinstance(value, str) and password_in(value):
            self._note(
                key[0],
                f"{where} holds a password",
                "a secret must not stand in the configuration file",
                f"take it out and set the whole value as {variable(key)} in the environment",
            )

    def take_environment(self, environ: Mapping[str, str]) -> None:
        known = {variable(key): key for key, leaf in leaves().items() if leaf.kind is not tuple}
        prefixes = tuple(f"{variable(section)}_" for section in sections())
        for name, value in sorted(environ.items()):
            if not value or not name.startswith(prefixes):
                continue
            if name in known:
                key = known[name]
                where = f"{name}={discreet(key, value)} in the environment"
                self.given[key] = Given(value, where, name, is_text=True)
                continue
            near = did_you_mean(name, known)
            self._note(
                name.removeprefix("UPDATER_").partition("_")[0].lower(),
                f"{name} in the environment is unknown",
                "it must be UPDATER_SECTION_KEY, for a key that is not a list",
                f"{near}, else unset it" if near else "unset it",
            )

    def take_overrides(self, overrides: Sequence[Override]) -> None:
        for one in overrides:
            if isinstance(one, Option):
                where = f"{one.name} {discreet(one.key, one.value)}"
                self._take_typed(one.key, one.value, where, one.name)
                continue
            name, equals, value = one.partition("=")
            key = tuple(part.strip() for part in name.split("."))
            said = f"--set {'.'.join(key)}"
            if not equals or not name.strip():
                self._note(
                    NOWHERE, f"--set {one}", "it must be section.key=value, as training.epochs=2"
                )
            elif key in leaves():
                self._take_typed(key, value, f"{said}={discreet(key, value)}", said)
            elif key in sections():
                self._note(NOWHERE, f"{said} names a section", *keys_of(key))
            else:
                self._note(NOWHERE, f"{said} is unknown", *nearest(key))

    def _take_typed(self, key: Key, value: str, where: str, name: str) -> None:
        self.given[key] = Given(value.strip(), where, name, is_text=True, is_typed=True)

    def settings(self, base: Settings | None = None) -> Settings:
        """What was given, and for the rest `base` or the defaults. Raises: InputError."""
        settings = self.build(Settings, (), base)
        if self.problems:
            raise _together(self.problems)
        return typing.cast(Settings, settings)

    def settings_of(self, needed: Collection[str]) -> Settings:
        """As `settings`, where only the sections `needed` must be right. Raises: InputError."""
        self._check_told()
        hints = typing.get_type_hints(Settings)
        names = hints if self.torn is None else needed
        parts = {name: self.build(hints[name], (name,)) for name in names}
        is_whole = self.torn is None and None not in parts.values()
        whole = self._checked(Settings, parts, ()) if is_whole else None
        refused = [one for one in self.problems if one.section in (*needed, NOWHERE)]
        if refused:
            raise _together(refused)
        if not self.problems:
            return typing.cast(Settings, whole)
        wrong = _together(self.problems)
        log.warning("%s This command needs only [%s], and goes on", wrong, "] and [".join(needed))
        bad = {one.section for one in self.problems}
        right = {name: part for name, part in parts.items() if name not in bad}
        return typing.cast(Settings, _Parts(right, wrong))

    def _check_told(self) -> None:
        """Where the stores are is known, however torn the file. Raises: InputError."""
        unknown = [
            key
            for key in WHERE
            if key not in self.given and (key[0] in self.hidden or key == ("workspace", "name"))
        ]
        if self.torn is not None and unknown:
            lost = "] and [".join(dict.fromkeys(key[0] for key in unknown))
            raise InputError(
                self.torn.what,
                f"[{lost}] can't be told from what is left of it",
                f"{self.torn.cure}; or, to go on at once, give what stood there, in the "
                f"environment: {', '.join(map(variable, unknown))}",
            )

    def build(self, cls: type, section: Key, base: Any = None) -> Any:
        """An instance of `cls` from what was given, the rest as in `base`; None once its problems
        are noted."""
        hints = typing.get_type_hints(cls)
        arguments: dict[str, Any] = {}
        wrong: set[str] = set()
        is_missing = False
        for field in dataclasses.fields(cls):
            key = (*section, field.name)
            if key in sections():
                inner = getattr(base, field.name, None)
                arguments[field.name] = self.build(hints[field.name], key, inner)
                if arguments[field.name] is None:
                    wrong.add(field.name)
            elif key in self.given:
                try:
                    arguments[field.name] = typed(self.given[key], leaves()[key])
                except TypeError as error:
                    self._note(self._place([key]), self.given[key].where, str(error))
                    wrong.add(field.name)
                    is_missing |= not _stand_in(cls, field.name, arguments, base)
            elif base is not None:
                arguments[field.name] = getattr(base, field.name)
            elif field.default is dataclasses.MISSING:
                is_missing = True
                self._note(
                    key[0],
                    f"{self.path}: {spell(key)} is missing",
                    f"it must be given: {named(leaves()[key])}",
                    f"write `{field.name} = ...` below [{'.'.join(section)}]",
                )
        if is_missing or (wrong and not section):
            return None
        return self._checked(cls, arguments, section, base, wrong)

    def _checked(
        self,
        cls: type,
        arguments: dict[str, Any],
        section: Key,
        base: Any = None,
        wrong: Collection[str] = (),
    ) -> Any:
        """An instance, or None once every broken rule is noted. A class names the first alone: it
        is asked again with what is right in the place of what is `wrong`. What it then says of
        that may be our own doing, and is not noted."""
        wrong = set(wrong)
        while True:
            try:
                made = cls(**arguments)
            except ValueError as error:
                names, _, rule = str(error).partition(": ")
            else:
                return None if wrong else made
            keys = [(*section, *name.split(".")) for name in names.split(", ")]
            own = [key for key in keys if len(key) == len(section) + 1]
            told, given = {key[-1] for key in own}, {key[-1] for key in own if key in self.given}
            if not wrong or (given and not told & wrong):
                self._note_rule(keys, rule, section)
            replaced = given - wrong
            if not section or not replaced:
                return None
            wrong |= told
            if not all(_stand_in(cls, name, arguments, base) for name in replaced):
                return None

    def _note_rule(self, keys: Sequence[Key], rule: str, section: Key) -> None:
        found = [self.given[key] for key in keys if key in self.given]
        spelled = ", ".join(spell(key) for key in keys)
        place = self._place(keys)
        self._note(
            place if section or place == NOWHERE else "",
            " and ".join(given.where for given in found) or f"{self.path}: {spelled} not given",
            rule,
            f"change {', '.join(given.name for given in found) or spelled}",
        )

    def _place(self, keys: Sequence[Key]) -> str:
        """The section of keys whose values are wrong."""
        is_typed = any(key in self.given and self.given[key].is_typed for key in keys)
        return NOWHERE if is_typed else keys[0][0]

    def _note(self, section: str, what: str, rule: str = "", cure: str = "") -> None:
        self.problems.append(Problem(InputError(what, rule, cure), section))


class _Parts:
    """Of a configuration what is right, in the place of `Settings`: what is not is an error once
    it is used."""

    def __init__(self, right: Mapping[str, Any], wrong: InputError) -> None:
        vars(self).update(right)
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._wrong


def _stand_in(cls: type, name: str, arguments: dict[str, Any], base: Any) -> bool:
    """Whether something right could take the place of the field `name`: what `base` has, or else
    the default."""
    arguments.pop(name, None)
    if base is not None:
        arguments[name] = getattr(base, name)
        return True
    (field,) = (one for one in dataclasses.fields(cls) if one.name == name)
    return (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def _together(problems: Sequence[Problem]) -> InputError:
    """One error that names all."""
    if len(problems) == 1:
        return problems[0].error
    listed = " ".join(f"({n}) {one.error}" for n, one in enumerate(problems, start=1))
    return InputError(f"{len(problems)} things are wrong in the configuration: {listed}")


def _section_of(key: Key) -> str:
    """The section of an unknown key; of an unknown section, or a key above all of them, the one
    that is probably meant. `NOWHERE` where nobody can tell."""
    named = [section[0] for section in sections()]
    if key[0] in named:
        return key[0]
    meant = (leaf[0] for leaf in leaves() if leaf[-1] == key[0])
    return closest(key[0], named) or next(meant, NOWHERE)
