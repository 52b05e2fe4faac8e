# One recipe for four images. SERVICE is the extra of pyproject.toml to install and, for a service, the folder to copy:
#   docker build --target service --build-arg SERVICE=retriever .     (or generator, evaluator)
#   docker build --target trainer --build-arg SERVICE=trainer .
# An image holds contracts/ and its own package only, so an import that crosses the boundaries cannot work.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
ARG SERVICE
# Where torch's wheel comes from; empty is the package registry's default, the CUDA build. See docs/deploy.md.
ARG TORCH_INDEX_URL=
RUN python -m venv --without-pip /opt/asktwice
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# --no-deps: of that index only torch itself is wanted; what it needs comes from the registry with everything else.
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip --python /opt/asktwice/bin/python install --no-cache-dir --no-compile --no-deps \
            --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' constraints.txt)"; \
    fi
# Empty packages stand in for the code, so that this layer is built anew only when the dependencies change.
# Triton goes: on a GPU it compiles C when the process runs, so the image would need a compiler. TRL (training loss) and
# torch (batched outer products) use it where it is there; without it they take the plain paths that the CPU tests run.
RUN mkdir contracts services trainer asktwice && touch README.md LICENSE \
    && pip --python /opt/asktwice/bin/python install --no-cache-dir --no-compile -c constraints.txt ".[$SERVICE]" \
    && pip --python /opt/asktwice/bin/python uninstall -y asktwice triton

FROM ${BASE_IMAGE} AS runtime
# Volumes take over the owner of the folder they are first mounted on.
RUN mkdir -p /artifacts /models /input && chown 10001:10001 /artifacts /models
COPY --from=dependencies /opt/asktwice /opt/asktwice
ENV PATH=/opt/asktwice/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HOME=/tmp \
    HF_HOME=/models \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ASKTWICE_HOME=/artifacts
WORKDIR /app
COPY contracts contracts
USER 10001:10001

FROM runtime AS trainer
COPY trainer trainer
CMD ["python", "-m", "trainer"]

FROM runtime AS service
ARG SERVICE
ENV SERVICE=${SERVICE}
COPY deploy/logging.json logging.json
COPY services/__init__.py services/kit.py services/
COPY services/${SERVICE} services/${SERVICE}
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# No access log: the services write a line per request themselves, without what was asked.
CMD exec uvicorn "services.$SERVICE.app:create_app" --factory --host 0.0.0.0 --port 8000 \
    --timeout-graceful-shutdown 20 --no-access-log --log-config logging.json
