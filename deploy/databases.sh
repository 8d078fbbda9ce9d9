#!/bin/sh
# A role and its databases for each of Airflow, Celery's results, MLflow and the ledger. The image of PostgreSQL runs it
# once, when its volume is empty; safe to run again, which also sets the passwords anew.
set -eu

role() { # name, password
    psql --quiet --set ON_ERROR_STOP=1 --set name="$1" --set password="$2" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'name', :'password') \gexec
SQL
}

database() { # name, owner
    psql --quiet --set ON_ERROR_STOP=1 --set name="$1" --set owner="$2" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SQL
}

export PGUSER="${POSTGRES_USER:-postgres}" PGDATABASE=postgres
role airflow "$AIRFLOW_DATABASE_PASSWORD"
role celery "$CELERY_DATABASE_PASSWORD"
role mlflow "$MLFLOW_DATABASE_PASSWORD"
role updater "$LEDGER_PASSWORD"
database airflow airflow
database celery celery
database mlflow mlflow
database mlflow_logins mlflow
database ledger updater
