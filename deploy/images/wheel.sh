#!/bin/sh
# Build the wheel, install it into bare environments, one for each extra, and see that what an extra is for can be
# imported there, and that what belongs to the others is not there. Run after `make test`, or any other target that
# sets up the development environment.
set -eu
cd "$(dirname "$0")/../.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

.venv/bin/hatchling build --target wheel --directory "$work" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
wheel="$(echo "$work"/*.whl)"
# The versions of the lock file; only its format with hashes is not for constraints.
sed -n 's/^\([A-Za-z0-9][^\\]*[^\\ ]\).*/\1/p' requirements/serve.lock >"$work/constraints.txt"

# An environment: EXTRA (or "" for the client alone), modules it has, modules it has not, commands that answer.
try() {
    extra="$1" has="$2" lacks="$3" commands="$4"
    environment="$work/env"
    python3 -m venv --clear "$environment"
    python="$environment/bin/python"
    before="$(du -sm "$environment" | cut -f 1)"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip install --quiet --quiet --constraint "$work/constraints.txt" \
        "lodestream$extra @ file://$wheel"
    "$python" -m pip check >/dev/null
    # Not in the clone, where its own packages would be found.
    (
        cd "$work"
        for module in $has; do "$python" -c "import $module"; done
        for module in $lacks; do
            "$python" - "$module" <<'END'
import importlib.util, sys
sys.exit(f"wheel: {sys.argv[1]} is installed" if importlib.util.find_spec(sys.argv[1]) else 0)
END
        done
        echo "$commands" | while read -r command; do
            # shellcheck disable=SC2086  # each word of the command is one word
            "$environment/bin/lodestream" $command >/dev/null
        done
    )
    after="$(du -sm "$environment" | cut -f 1)"
    echo "wheel: lodestream$extra: $((after - before)) MB, works by itself"
}

echo "wheel: $(du -k "$wheel" | cut -f 1) kB"
try "" "inference_client" \
    "fastapi gguf huggingface_hub numpy pydantic tensorrt_llm tokenizers uvicorn xllamacpp" \
    "--help
version"
try "[bridge]" "inference_client rest_bridge.app" \
    "gguf huggingface_hub numpy tensorrt_llm tokenizers xllamacpp" \
    "--help
bridge --help
keys --help"
try "[service]" "inference_client inference_service.server inference_service.backends.tensorrt_llm" \
    "fastapi tensorrt_llm uvicorn xllamacpp" \
    "serve --help
model list
engine plan --model llama-3.1-8b --gpu h100"
try "[embedded]" "inference_client inference_service.server inference_service.backends.llama_cpp xllamacpp" \
    "fastapi tensorrt_llm uvicorn" \
    "serve --help
model list"
