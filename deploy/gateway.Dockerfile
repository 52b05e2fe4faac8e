# The gateway from Debian's package, where the official Caddy image cannot be had. Used by deploy/offline.yml.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim
FROM ${BASE_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends caddy wget \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
EXPOSE 8000
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
