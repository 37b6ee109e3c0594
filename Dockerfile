# Every image of lodestream; deploy/README.md says how to build and run them.
#
#   docker build --target bridge .          the REST bridge; no engine in it
#   docker build --target cpu .             the service with the embedded engine
#   docker build --target tensorrt-llm .    the service on NVIDIA's image of TensorRT-LLM
#
# Bases are pinned by exact tag; for a digest, or a mirror, set the argument.
ARG PYTHON_BASE=python:3.12.13-slim-bookworm
ARG TENSORRT_LLM_BASE=nvcr.io/nvidia/tensorrt-llm/release:1.2.1


FROM ${PYTHON_BASE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/build.lock requirements/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --only-binary :all: --require-hashes -r requirements/build.lock


FROM tools AS build
COPY . .
RUN /opt/tools/bin/hatchling build --target wheel --directory /wheels


# Packages first and the wheel second: a change of our own code downloads nothing again.
FROM tools AS bridge-packages
COPY requirements/bridge.lock requirements/
RUN python3 -m venv --without-pip /opt/lodestream \
    && /opt/tools/bin/pip --python /opt/lodestream/bin/python install \
        --only-binary :all: --require-hashes -r requirements/bridge.lock
COPY --from=build /wheels /wheels
RUN /opt/tools/bin/pip --python /opt/lodestream/bin/python install --no-index --no-deps /wheels/*.whl


# pip stays in this environment: `lodestream model fetch` asks it for the default model.
FROM tools AS cpu-packages
COPY requirements/embedded.lock requirements/
RUN python3 -m venv /opt/lodestream \
    && /opt/lodestream/bin/pip uninstall --yes setuptools \
    && /opt/lodestream/bin/pip install --only-binary :all: --require-hashes -r requirements/embedded.lock
COPY --from=build /wheels /wheels
RUN /opt/lodestream/bin/pip install --no-index --no-deps /wheels/*.whl


# What the two images without a GPU have in common.
FROM ${PYTHON_BASE} AS runtime
ENV PATH=/opt/lodestream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LODESTREAM_KEYS_FILE=/keys/keys.json
RUN groupadd --gid 10001 lodestream \
    && useradd --uid 10001 --gid lodestream --create-home lodestream \
    && install --directory --owner lodestream --group lodestream /keys
WORKDIR /home/lodestream
USER 10001:10001
VOLUME /keys


FROM runtime AS bridge
COPY --from=bridge-packages /opt/lodestream /opt/lodestream
ENV LODESTREAM_HTTP_ADDRESS=0.0.0.0:8000
EXPOSE 8000
# Asks for /health/ready. The shell puts the address in, so that the probe follows a changed one. The service's is its default.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["sh", "-c", "exec lodestream health --address http${LODESTREAM_TLS_CERTIFICATE:+s}://$LODESTREAM_HTTP_ADDRESS"]
ENTRYPOINT ["lodestream"]
CMD ["bridge"]


FROM runtime AS cpu
USER 0
# The engine is linked to OpenMP. Debian keeps no old versions, so that a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/cache/apt/* /var/lib/apt/lists/* \
    && install --directory --owner lodestream --group lodestream /models
USER 10001:10001
COPY --from=cpu-packages /opt/lodestream /opt/lodestream
ENV LODESTREAM_GRPC_ADDRESS=0.0.0.0:50051 \
    LODESTREAM_CACHE_DIR=/models
EXPOSE 50051
VOLUME /models
# The start includes fetching the model into an empty volume.
HEALTHCHECK --interval=15s --timeout=10s --start-period=5m \
    CMD ["lodestream", "health"]
ENTRYPOINT ["lodestream"]
CMD ["serve"]


FROM ${TENSORRT_LLM_BASE} AS tensorrt-llm
USER 0
RUN groupadd --gid 10001 lodestream \
    && useradd --uid 10001 --gid lodestream --create-home lodestream \
    && install --directory --owner lodestream --group lodestream /keys
# An environment on top of the image's packages, which stay as they are: beside.py adds what the image lacks.
# The image's own constraints are for its packages, not for ours.
RUN --mount=type=bind,from=build,source=/src,target=/src \
    --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python3 -m venv --without-pip --system-site-packages /opt/lodestream \
    && export PIP_CONSTRAINT="" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    && /opt/lodestream/bin/python -m pip install --no-index --no-deps /wheels/*.whl \
    && /opt/lodestream/bin/python /src/deploy/images/beside.py \
        --lock /src/requirements/service.lock --for 'lodestream[service,redis,postgres,traces]' --keep tensorrt_llm \
    && /opt/lodestream/bin/python -c 'import inference_service.server, opentelemetry.sdk.trace, psycopg, redis'
ENV PATH=/opt/lodestream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LODESTREAM_GRPC_ADDRESS=0.0.0.0:50051 \
    LODESTREAM_KEYS_FILE=/keys/keys.json
WORKDIR /home/lodestream
USER 10001:10001
EXPOSE 50051
VOLUME /keys /engine
# Loading an engine takes minutes.
HEALTHCHECK --interval=15s --timeout=10s --start-period=15m \
    CMD ["lodestream", "health"]
# NVIDIA's script finds the driver's libraries, then becomes the command: signals reach the server.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "lodestream"]
CMD ["serve", "--engine", "/engine"]
