"""What has to be there before Airflow starts: migrations, logins, the pool, the buckets.

The service `setup` of docker-compose.yml runs it at every start. Safe to run again: what is there
stays, and the two logins get the passwords of the environment. Needs Airflow and boto3.
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

BUCKETS = ("artifacts", "checkpoints", "datasets")
TIMEOUT_SECONDS = 30


def airflow(*arguments: str) -> str:
    """What the command printed.

    Raises:
        subprocess.CalledProcessError: it failed; what it said went to stderr.
    """
    done = subprocess.run(["airflow", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def make_admin() -> None:
    """Airflow's user `admin` has the password of the environment."""
    password = os.environ["AIRFLOW_ADMIN_PASSWORD"]
    users = json.loads(airflow("users", "list", "--output", "json"))
    if any(user["username"] == "admin" for user in users):
        airflow("users", "reset-password", "--username", "admin", f"--password={password}")
        return
    names = ("--firstname", "Updater", "--lastname", "Administrator", "--email", "admin@localhost")
    airflow(
        *("users", "create", "--username", "admin", "--role", "Admin", *names),
        f"--password={password}",
    )


def make_pool() -> None:
    """The pool `gpu` has as many slots as GPU workers take tasks."""
    airflow("pools", "set", "gpu", os.environ["GPU_SLOTS"], "Heavy steps: one slot per GPU worker")


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
