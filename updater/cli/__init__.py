"""The command line: `main` is what the `updater` script runs."""

from updater.cli.app import main

__all__ = ["main"]
