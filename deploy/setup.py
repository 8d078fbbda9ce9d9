"""What has to be there before Airflow starts: migrations, logins, the pool, the buckets.

The service `setup` of docker-compose.yml runs it at every start. Safe to run again: what is there
stays, but the two logins get the passwords of the environment, and the pool its GPU_SLOTS. No
password stands on a command line or in what is printed. Needs Airflow with its logins (FAB) and
boto3.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from typing import Any

import boto3
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from werkzeug.security import check_password_hash

BUCKETS = ("artifacts", "checkpoints", "datasets")
TIMEOUT_SECONDS = 30


def airflow(*arguments: str) -> None:
    """The command has ended well.

    Raises:
        subprocess.CalledProcessError: it failed; what it said went to stderr.
    """
    subprocess.run(["airflow", *arguments], check=True)


@providers_configuration_loaded
def make_admin() -> None:
    """Airflow's user `admin` has the password of the environment. Not by the command line of
    Airflow: every process of the machine could read the password there."""
    password = os.environ["AIRFLOW_ADMIN_PASSWORD"]
    with get_application_builder() as builder:
        logins = builder.sm
        admin = logins.find_user(username="admin")
        if admin is None:
            names = ("admin", "Updater", "Administrator", "admin@localhost")
            if not logins.add_user(*names, logins.find_role("Admin"), password=password):
                raise SystemExit("Airflow did not make the user admin; its log above says why")
        elif not check_password_hash(admin.password, password):  # it would end the admin's sessions
            logins.reset_password(admin.id, password)


def make_pool() -> None:
    """The pool `gpu` has room for what any number of GPU workers take, one task each."""
    airflow("pools", "set", "gpu", os.environ["GPU_SLOTS"], "Heavy steps, on GPU workers")


def make_buckets() -> None:
    """Each bucket is there."""
    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            store.create_bucket(Bucket=name)


def make_mlflow_login() -> None:
    """MLflow's user that the service signs in by has the password of the environment."""
    name, password = (os.environ[f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD"))
    login = {"username": name, "password": password}
    try:
        mlflow("POST", "create", login)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise SystemExit(
                "MLflow refused the administrator: MLFLOW_ADMIN_PASSWORD is not the one that it "
                "was first started with. Change it there first (docs/security.md)"
            ) from None
        if error.code != 400 or json.load(error)["error_code"] != "RESOURCE_ALREADY_EXISTS":
            raise
        mlflow("PATCH", "update-password", login)


def mlflow(method: str, what: str, body: dict[str, Any]) -> None:
    """One request of MLflow's users, as its administrator."""
    admin = b64encode(f"admin:{os.environ['MLFLOW_ADMIN_PASSWORD']}".encode()).decode()
    request = urllib.request.Request(
        f"{os.environ['UPDATER_STORE_MLFLOW_URI']}/api/2.0/mlflow/users/{what}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {admin}"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(request, timeout=TIMEOUT_SECONDS).close()


def main() -> None:
    """All of it, in an order in which each has what it needs."""
    airflow("db", "migrate")
    make_admin()
    make_pool()
    make_buckets()
    make_mlflow_login()


if __name__ == "__main__":
    sys.exit(main())
