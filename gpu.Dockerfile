# The training core on a GPU, with fused Mamba-2 kernels: rehearsal, regularizers, updater.nemotron,
# updater.train, updater.launch and updater.evaluate. Not the service (MLflow, DVC, Airflow).
#
#   docker build -f gpu.Dockerfile -t updater-gpu .
#   docker build -f gpu.Dockerfile --build-arg ARCHITECTURES="9.0;10.0" -t updater-gpu .
#
# The kernels are compiled here, for minutes each; the second stage has no compiler of CUDA code.
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS kernels
ARG ARCHITECTURES=9.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-dev python3-venv git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/updater
ENV PATH=/opt/updater/bin:$PATH
# The index that pip is configured for gives a build for some CUDA; PIP_INDEX_URL names another.
ARG PIP_INDEX_URL
RUN pip install --no-cache-dir torch==2.13.0
# What their builds need; both import torch while they are built, so it has to be this one.
RUN pip install --no-cache-dir setuptools wheel packaging ninja einops
ENV TORCH_CUDA_ARCH_LIST=${ARCHITECTURES} MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE
RUN pip install --no-cache-dir --no-build-isolation causal-conv1d==1.7.0 \
    && pip install --no-cache-dir --no-build-isolation mamba-ssm==2.3.2.post1
COPY pyproject.toml README.md LICENSE /src/
COPY updater /src/updater
COPY rehearsal /src/rehearsal
COPY regularizers /src/regularizers
COPY store /src/store
COPY dags /src/dags
RUN pip install --no-cache-dir /src

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
# Triton builds EWC's kernel on first use: it wants a C compiler and Python's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home updater
COPY --from=kernels /opt/updater /opt/updater
ENV PATH=/opt/updater/bin:$PATH
USER updater
WORKDIR /home/updater
