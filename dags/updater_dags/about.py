"""What every DAG says of itself on its page: what it does, and what is wrong with its settings."""

from __future__ import annotations

from typing import Any

from updater_dags import limits
from updater_dags.notify import Notices
from updater_dags.workspaces import Workspace


def about(workspace: Workspace, notices: Notices, line: str, text: str) -> dict[str, Any]:
    """description, doc_md and tags of a DAG."""
    problem = " ".join(filter(None, (workspace.problem, limits.problem(), notices.problem)))
    return {
        "description": problem or line,
        "doc_md": f"**{problem}**\n\n{text}" if problem else text,
        "tags": ["updater", *filter(None, [workspace.key, "misconfigured" if problem else ""])],
    }
