# One image for the API, the workers and the migrations; whoever starts it chooses the command.
FROM python:3.11.15-slim-bookworm AS base


# Wheels only, so that no stage needs a compiler.
FROM base AS packages
COPY requirements/service.txt /tmp/service.txt
# The cache belongs to the builder; nothing of it gets into the image.
RUN --mount=type=cache,target=/var/cache/pip \
    python -m venv --without-pip /opt/venv \
    && PIP_CACHE_DIR=/var/cache/pip python -m pip --python /opt/venv/bin/python install --disable-pip-version-check --root-user-action ignore \
        --require-hashes --only-binary :all: --requirement /tmp/service.txt


FROM base
LABEL org.opencontainers.image.title="Experimentation Platform" \
      org.opencontainers.image.licenses="MIT"
# A number, so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /srv --shell /usr/sbin/nologin app
# The embedded servers are not in here, and production refuses to look for them.
ENV ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PATH=/opt/venv/bin:$PATH \
    PORT=8000 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
COPY --from=packages /opt/venv /opt/venv
COPY alembic.ini ./
COPY alembic alembic
COPY clickhouse clickhouse
COPY debezium debezium
COPY app app
# Compiled here, because the service cannot write where its code is.
RUN python -m compileall -q app alembic
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "app"]
