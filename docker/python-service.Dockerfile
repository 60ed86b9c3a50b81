# syntax=docker/dockerfile:1
# One image for each service:
#   docker build --file docker/python-service.Dockerfile --build-arg SERVICE=profile-store --tag recommendation/profile-store:0.1.0 .
# SERVICE is hot-path-api, vector-search, graph-service, profile-store, fleet-controller, or laptop for `recommend up`.

FROM debian:12.12-slim AS build
# Debian removes a version when the next one is there, so a pin would break the build; none of it reaches the last stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.11-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY requirements/ requirements/
COPY protos/ protos/
COPY services/ services/
COPY docker/make-environment.sh docker/launch.py docker/
ARG SERVICE
RUN --mount=type=cache,target=/root/.cache/pip docker/make-environment.sh "${SERVICE}" /opt/recommendation
RUN mkdir /data

# The same Debian's Python, without a shell, a package manager or a compiler.
FROM gcr.io/distroless/python3-debian12:nonroot@sha256:7d1042ce588ab97019fe95c24ffca7bc5a82ccdac572511d5e09bda4435c89c5
COPY --from=build /opt/recommendation /opt/recommendation
COPY --from=build --chown=1000:1000 /data /data
ENV PATH=/opt/recommendation/bin:/usr/local/bin:/usr/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    HOST=0.0.0.0 \
    DATA_DIR=/data
WORKDIR /data
VOLUME ["/data"]
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/opt/recommendation/bin/healthy"]
ENTRYPOINT ["/opt/recommendation/bin/service"]
ARG SERVICE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG LICENSES=NOASSERTION
LABEL org.opencontainers.image.title="recommendation/${SERVICE}" \
    org.opencontainers.image.description="The service ${SERVICE} of the recommendation engine" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.licenses="${LICENSES}" \
    org.opencontainers.image.base.name="gcr.io/distroless/python3-debian12:nonroot"
