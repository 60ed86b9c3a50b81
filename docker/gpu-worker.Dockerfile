# syntax=docker/dockerfile:1
# gpu_worker with torch and faiss on the GPU:
#   docker build --file docker/gpu-worker.Dockerfile --tag recommendation/gpu-worker:0.1.0 .
# The wheels bring CUDA's libraries; the base brings what fits them to the machine's driver, which must know CUDA 13.

FROM nvidia/cuda:13.0.1-base-ubi9 AS python
# The distribution removes a version when the next one is there, so a pin would break the build.
# hadolint ignore=DL3041
RUN dnf install --assumeyes --nodocs --setopt=install_weak_deps=0 python3.11 \
    && dnf clean all

FROM python AS build
WORKDIR /source
COPY requirements/ requirements/
COPY protos/ protos/
COPY services/ services/
COPY docker/make-environment.sh docker/launch.py docker/
RUN --mount=type=cache,target=/root/.cache/pip docker/make-environment.sh gpu-worker /opt/recommendation requirements/gpu-worker-cuda.txt
RUN mkdir /models /queue

FROM python
COPY --from=build /opt/recommendation /opt/recommendation
COPY --from=build --chown=1000:1000 /models /models
COPY --from=build --chown=1000:1000 /queue /queue
ENV PATH=/opt/recommendation/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HOST=0.0.0.0 \
    DATA_DIR=/queue \
    MODELS_DIR=/models \
    HF_HUB_OFFLINE=1
WORKDIR /queue
VOLUME ["/models", "/queue"]
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["/opt/recommendation/bin/healthy"]
ENTRYPOINT ["/opt/recommendation/bin/service"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG LICENSES=NOASSERTION
LABEL org.opencontainers.image.title="recommendation/gpu-worker" \
    org.opencontainers.image.description="The service gpu-worker of the recommendation engine, with CUDA" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.licenses="${LICENSES}" \
    org.opencontainers.image.base.name="nvidia/cuda:13.0.1-base-ubi9"
