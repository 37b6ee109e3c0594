#!/bin/sh
# Makes the environment given as $1 on top of $2, the Python that has TensorRT-LLM; its packages stay as they are.
set -eu
environment=$1 python=$2
# The image's own constraints are for its packages, not for ours.
export PIP_CONSTRAINT="" PIP_DISABLE_PIP_VERSION_CHECK=1
test "$environment/.ready" -nt pyproject.toml && exit
"$python" -m venv --without-pip --system-site-packages "$environment"
own=$environment/bin/python
"$own" -m pip install --quiet --no-deps --editable .
for wanted in 'lodestream[service,bridge,bench]' 'httpx>=0.28' 'pytest>=8.3' 'pytest-asyncio>=1' 'pytest-timeout>=2.3'; do
    "$own" deploy/images/beside.py --lock requirements/dev.lock --for "$wanted" --keep tensorrt_llm
done
touch "$environment/.ready"
