"""How candidates are judged, and where state lives: the sections evaluation, gate and store."""

import re
from dataclasses import asdict, dataclass

from updater.settings.rules import at_least, fraction, one_of

APPROVALS = ("auto", "manual")
PLACEHOLDER = "{workspace}"
# As SQLAlchemy reads them: a password may have anything in it, even @.
DATABASE_URL = re.compile(
    r"sqlite:///.+"
    r"|postgresql(\+psycopg)?://(.*@)?(\[[^\]]*\]|[^@/?:]*)(:\d+)?([/?].*)?"
)
SERVER_URL = re.compile(r"https?://(.*@)?(\[[^\]]+\]|[^@/?:]+)(:\d+)?(/.*)?")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """`batch_size` examples a forward pass, fewer of long ones; `verify_examples` a period asked
    again from the exported folder in a clean process before a version may be promoted (0: all).
    """

    batch_size: int = 64
    verify_examples: int = 256

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        at_least("verify_examples", self.verify_examples, 0)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """`margin_fraction`: how much worse (absolute accuracy) a past period may be."""

    margin_fraction: float = 0.02
    confidence: float = 0.95
    approval: str = "auto"
    approval_timeout_seconds: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        fraction("margin_fraction", self.margin_fraction, low_open=True, high_open=True)
        if not 0.5 < self.confidence < 1:
            raise ValueError("confidence: must lie in (0.5, 1)")
        one_of("approval", self.approval, APPROVALS)
        at_least("approval_timeout_seconds", self.approval_timeout_seconds, 1)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where state lives. Every key also as UPDATER_STORE_URL and so on: secrets only there, and
    never in the digest. A relative SQLite path or folder is relative to the workspace. In any of
    them `{workspace}` is the workspace's name, so that one environment serves many models."""

    url: str = "sqlite:///store.db"
    mlflow_uri: str = "sqlite:///mlflow.db"
    mlflow_artifacts: str = ""
    mlflow_page: str = ""
    checkpoints: str = "checkpoints"
    dvc_remote: str = ""

    def __post_init__(self) -> None:
        database = "sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        if not DATABASE_URL.fullmatch(self.url):
            raise ValueError(f"url: must be {database}")
        if not (DATABASE_URL.fullmatch(self.mlflow_uri) or SERVER_URL.fullmatch(self.mlflow_uri)):
            raise ValueError(f"mlflow_uri: must be https://HOST of a server, or {database}")
        if self.mlflow_page and not SERVER_URL.fullmatch(self.mlflow_page):
            raise ValueError("mlflow_page: must be https://HOST, as people's browsers know it")

    def of(self, workspace: str) -> "StoreSettings":
        """The same for the workspace of that name, which stands wherever `{workspace}` stood."""
        named = {key: value.replace(PLACEHOLDER, workspace) for key, value in asdict(self).items()}
        return StoreSettings(**named)
