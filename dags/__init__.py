"""Thin DAGs: airflow.sdk and the standard library only; every task is one `updater` command."""
