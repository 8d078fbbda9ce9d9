# The images of docker-compose.yml that need no torch: `airflow`, which is everything of Airflow but
# the GPU worker (that one is gpu.Dockerfile's target `worker`) and the command line; and `mlflow`.
#
#   docker build -f service.Dockerfile --target airflow -t updater-service .
#
# What is installed is what pyproject.toml's extras name, in the versions of requirements.lock.
ARG PYTHON=3.11.13-slim-bookworm
FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
# The index that pip is configured for; PIP_INDEX_URL names another.
ARG PIP_INDEX_URL
RUN useradd --uid 1000 --create-home updater && python -m venv /opt/venv
WORKDIR /opt/updater
COPY pyproject.toml requirements.lock ./
COPY deploy/requirements_of.py deploy/

FROM base AS airflow
# git: DVC's.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
# On Kubernetes with `kubernetes` (docs/kubernetes.md).
ARG EXTRAS="service airflow cluster s3 search"
RUN python deploy/requirements_of.py ${EXTRAS} > /tmp/wanted.txt \
    && pip install --requirement /tmp/wanted.txt --constraint requirements.lock
COPY README.md LICENSE ./
COPY updater updater
COPY rehearsal rehearsal
COPY regularizers regularizers
COPY compression compression
COPY store store
COPY dags dags
COPY deploy deploy
RUN pip install --no-deps . && install -d -o updater -g updater /workspaces /logs
USER updater

FROM base AS mlflow
RUN python deploy/requirements_of.py server > /tmp/wanted.txt \
    && pip install --requirement /tmp/wanted.txt --constraint requirements.lock
COPY deploy deploy
USER updater
