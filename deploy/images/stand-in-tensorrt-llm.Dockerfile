# Stands in for NVIDIA's image of TensorRT-LLM 1.2.1 where that cannot be had, to try out the stage built on it.
# It has what our stage must put up with and leave alone: packages of the image's own, of which grpcio is too old for
# us and huggingface-hub must not be renewed, a constraint of pip's, and the script that NVIDIA's images begin with.
# Of TensorRT-LLM itself it has only metadata.
ARG BASE=localhost/stand-in
FROM ${BASE}
ENV PIP_BREAK_SYSTEM_PACKAGES=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/cache/apt/* /var/lib/apt/lists/* \
    && pip install --no-cache-dir grpcio==1.62.1 huggingface-hub==0.36.2 jinja2==3.1.6 numpy==1.26.4 \
        packaging==25.0 protobuf==6.33.5 pydantic==2.12.5 tokenizers==0.22.2
ENV PIP_CONSTRAINT=/etc/pip/constraint.txt
WORKDIR /usr/local/lib/python3.11/dist-packages
RUN metadata() { \
        mkdir "$1-$2.dist-info" \
        && printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n%b' "$1" "$2" "$3" >"$1-$2.dist-info/METADATA"; \
    } \
    && metadata tensorrt_llm 1.2.1 'Requires-Dist: transformers==4.57.3\nRequires-Dist: protobuf>=6.33.5\n' \
    && metadata transformers 4.57.3 'Requires-Dist: huggingface-hub<1.0,>=0.34\nRequires-Dist: tokenizers<=0.23,>=0.22\n' \
    && mkdir --parents /etc/pip /opt/nvidia \
    && echo 'grpcio==1.62.1' >/etc/pip/constraint.txt \
    && printf '#!/bin/sh\nexec "$@"\n' >/opt/nvidia/nvidia_entrypoint.sh \
    && chmod +x /opt/nvidia/nvidia_entrypoint.sh
WORKDIR /
