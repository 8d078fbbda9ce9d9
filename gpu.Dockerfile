# What runs on GPUs, with fused Mamba-2 kernels. Target `core`: rehearsal, regularizers,
# compression, updater.nemotron, updater.train, updater.launch and updater.evaluate, without the
# service (MLflow, DVC, Airflow). Target `worker`, the last: the same with the service, as
# docker-compose.yml's GPU worker.
#
#   docker build -f gpu.Dockerfile --target core -t updater-gpu .
#   docker build -f gpu.Dockerfile --build-arg ARCHITECTURES="9.0;10.0" -t updater-gpu-worker .
#
# ARCHITECTURES: the kinds of GPU that the kernels are compiled for, in TORCH_CUDA_ARCH_LIST's words;
# each takes minutes. What comes of it has no compiler of CUDA code.
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS kernels
ARG ARCHITECTURES=9.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-dev python3-venv git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The index that pip is configured for gives a build for some CUDA; PIP_INDEX_URL names another.
ARG PIP_INDEX_URL
RUN pip install --no-cache-dir torch==2.13.0
# What their builds need; both import torch while they are built, so it has to be this one.
RUN pip install --no-cache-dir setuptools wheel packaging ninja einops
ENV TORCH_CUDA_ARCH_LIST=${ARCHITECTURES} MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE
# Their setup.py asks nvcc for nine kinds itself, and where a flag names one torch passes its list
# over: so those flags are left out.
RUN mkdir /tmp/kernels && cd /tmp/kernels \
    && pip download --no-deps --no-binary :all: --no-build-isolation causal-conv1d==1.7.0 \
    && pip download --no-deps --no-binary :all: --no-build-isolation mamba-ssm==2.3.2.post1 \
    && for archive in *.tar.gz; do tar --extract --file "$archive"; done \
    && sed --in-place --regexp-extended 's/cc_flag\.append\("(-gencode|arch=[^"]*)"\)/pass/' */setup.py \
    && ! grep gencode */setup.py \
    && pip install --no-cache-dir --no-build-isolation ./causal_conv1d-*/ \
    && pip install --no-cache-dir --no-build-isolation ./mamba_ssm-*/ \
    && rm -r /tmp/kernels
COPY pyproject.toml README.md LICENSE requirements.lock /src/
COPY updater /src/updater
COPY rehearsal /src/rehearsal
COPY regularizers /src/regularizers
COPY compression /src/compression
COPY store /src/store
COPY dags /src/dags
# In the versions of the lock but for its torch, which is the CPU's name for the same version.
RUN grep --invert-match "^torch==" /src/requirements.lock > /tmp/lock.txt \
    && pip install --no-cache-dir /src --constraint /tmp/lock.txt

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04 AS core
# Triton builds EWC's kernel on first use: it wants a C compiler and Python's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu && useradd --uid 1000 --create-home updater
COPY --from=kernels /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
USER updater
WORKDIR /home/updater

FROM core AS worker
USER root
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/updater
COPY pyproject.toml requirements.lock ./
COPY deploy deploy
COPY dags dags
ARG PIP_INDEX_URL
# On Kubernetes with `kubernetes` (docs/kubernetes.md).
ARG EXTRAS="service airflow cluster s3 search"
RUN python3 deploy/requirements_of.py ${EXTRAS} > /tmp/wanted.txt \
    && grep --invert-match "^torch==" requirements.lock > /tmp/lock.txt \
    && pip install --no-cache-dir --requirement /tmp/wanted.txt --constraint /tmp/lock.txt \
    && install -d -o updater -g updater /workspaces /logs
USER updater
