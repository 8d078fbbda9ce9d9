"""The command line: `main` is what the `updater` script runs."""

from updater.cli.main import main, run

__all__ = ["main", "run"]
