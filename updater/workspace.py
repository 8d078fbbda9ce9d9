"""A workspace: where everything of one model lies, and how its stores are opened.

Not the configuration's meaning (`updater.settings`) and not the work (`updater.pipeline`). Every
store is opened on first use, so that a command pays only for what it touches: `status` never
imports torch, MLflow or DVC.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import getpass
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from updater import config
from updater.errors import InputError, UpdateError
from updater.settings import Settings, StoreSettings

if TYPE_CHECKING:
    from store.aliases import Aliases
    from store.checkpoints import Checkpoints
    from store.datasets import Datasets
    from store.ledger import DatasetVersion, Ledger
    from store.registry import Registry
    from updater.periods import Periods

CONFIG_FILE = "updater.toml"

log = logging.getLogger(__name__)


class Workspace:
    """The folder `root` with its settings; stores are properties."""

    def __init__(self, root: Path, settings: Settings, *, progress: bool = False) -> None:
        self.root = root
        self.settings = settings
        self.progress = progress

    @classmethod
    def open(
        cls,
        root: Path,
        overrides: Sequence[config.Override] = (),
        *,
        needed: Sequence[str] = (),
        progress: bool = False,
    ) -> Workspace:
        """The workspace at `root`, its configuration read and checked.

        `progress` shows bars on stderr during long work. `needed`: the sections of the
        configuration that are used, where mistakes in others must not be in the way.

        Raises:
            InputError: `root` is no workspace, or its configuration breaks a rule.
        """
        root = root.expanduser().resolve()
        if (root / CONFIG_FILE).is_dir():
            raise InputError(
                f"{root / CONFIG_FILE} is a folder",
                "a workspace has its configuration in a file of that name",
                "move the folder away, then make a workspace with `updater init DIR`",
            )
        if not (root / CONFIG_FILE).is_file():
            raise InputError(
                f"{root} is no workspace",
                f"a workspace is a folder with {CONFIG_FILE}",
                "make one with `updater init DIR`, or name one with --workspace DIR or "
                "UPDATER_WORKSPACE",
            )
        settings = (
            config.load_needed(root, needed, overrides) if needed else config.load(root, overrides)
        )
        return cls(root, settings, progress=progress)

    def tuned(self, settings: Settings) -> Workspace:
        """The same workspace, the same open stores, by other settings."""
        twin = copy.copy(self)
        twin.settings = settings
        return twin

    @property
    def actor(self) -> str:
        """Who is acting, for the events: UPDATER_ACTOR, else the login name."""
        named = os.environ.get("UPDATER_ACTOR", "").strip()
        if named:
            return named
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return f"uid {os.getuid()}"

    @cached_property
    def _store(self) -> StoreSettings:
        return self.settings.store.of(self.settings.workspace.name)

    @cached_property
    def ledger_url(self) -> str:
        return self._absolute_url(self._store.url)

    @cached_property
    def mlflow_uri(self) -> str:
        return self._absolute_url(self._store.mlflow_uri)

    @cached_property
    def mlflow_artifacts(self) -> str:
        """Where MLflow keeps artifacts; empty where an MLflow server decides."""
        given = self._store.mlflow_artifacts
        if given:
            return given if "://" in given else str(self.root / given)
        is_server = self.mlflow_uri.startswith(("http://", "https://"))
        return "" if is_server else str(self.root / "mlartifacts")

    @cached_property
    def ledger(self) -> Ledger:
        from store.ledger import open_ledger

        return open_ledger(self.ledger_url)

    @cached_property
    def aliases(self) -> Aliases:
        from store.aliases import Aliases

        return Aliases(self.mlflow_uri, self.settings.workspace.name)

    @cached_property
    def dvc_remote(self) -> str:
        """Where dataset versions are pushed; empty where nowhere."""
        given = self._store.dvc_remote
        return str(self.root / given) if given and "://" not in given else given

    @cached_property
    def datasets(self) -> Datasets:
        from store.datasets import Datasets

        return Datasets(self.root, self.dvc_remote)

    def quarantine(self, newest: DatasetVersion) -> Path:
        """The rows that a period's newest version holds in quarantine: under the period's name
        where it is checked out, else DVC's own object."""
        checked_out = self.root / "data" / newest.period / "quarantine.parquet"
        if checked_out.exists():
            return checked_out
        return self.datasets.path(newest.id, "quarantine.parquet")

    @cached_property
    def checkpoints(self) -> Checkpoints:
        from store.checkpoints import Checkpoints

        given = self._store.checkpoints
        location = given if "://" in given else str(self.root / given)
        return Checkpoints(location, self.root / "cache" / "checkpoints")

    @cached_property
    def registry(self) -> Registry:
        from store.registry import Registry

        return Registry(self.mlflow_uri, self.mlflow_artifacts, self.settings.workspace.name)

    @cached_property
    def periods(self) -> Periods:
        """By the configuration, which the ledger's periods agree with.

        Raises:
            InputError: they are of another kind.
        """
        from updater.periods import Periods

        periods = Periods(self.settings.periods)
        periods.check_kind(self.ledger.periods())
        return periods

    @property
    def calls(self) -> Path:
        """Where machines that `updater join` look for what there is to do."""
        return self.root / "cache" / "calls"

    def run_folder(self, update: str) -> Path:
        """What the steps of one update leave for each other; made if it isn't there."""
        folder = self.root / "runs" / update
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(
        self, name: str = ".lock", *, shared: bool = False, wait: bool = False
    ) -> Iterator[None]:
        """Hold the workspace for one writer, or what the file `name` in it stands for. The kernel
        drops it when the process dies. `shared`: with others that say so. `wait`: until it is free,
        and the log says so.

        `promote` and `rollback` don't take it: on-call must not wait for a training run; they
        are safe by the ledger's compare-and-swap.

        Raises:
            UpdateError: another process holds it, and we don't wait.
        """
        path = self.root / name
        with path.open("a+") as file:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                who = f"process {file.read().strip() or 'unknown'}"
                said = f"another updater command is at work in {self.root} ({who})"
                if not wait:
                    raise UpdateError(f"{said}; wait for it, or stop it and run again") from error
                log.warning("%s: waiting until it has ended", said)
                fcntl.flock(file, how)
            if shared:  # there is room for one number, and these are many
                yield
                return
            os.truncate(file.fileno(), 0)
            with contextlib.suppress(OSError):  # a full disk: the lock holds without it
                os.write(file.fileno(), str(os.getpid()).encode())
            try:
                yield
            finally:
                # Who reads it kills that process, and its number is another's soon.
                os.truncate(file.fileno(), 0)

    def _absolute_url(self, url: str) -> str:
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.startswith("sqlite:////"):
            return f"{prefix}/{(self.root / url.removeprefix(prefix)).as_posix().lstrip('/')}"
        return url
