#!/bin/sh
# Ask over REST with curl: what is served, a whole answer, a stream, a refusal.
#
# Run `sh examples/curl.sh [http://host:port]` while `make serve` runs. A key comes from LODESTREAM_API_KEY.
set -eu

url=${1:-${LODESTREAM_URL:-http://127.0.0.1:8000}}
key=${LODESTREAM_API_KEY:-none}

ask() {
    curl --silent --show-error --no-buffer --header "Authorization: Bearer $key" "$@"
    echo
}

model=$(ask "$url/v1/models" | sed 's/.*"data":\[{"id":"\([^"]*\)".*/\1/')
echo "model: $model"

ask "$url/v1/chat/completions" --header "Content-Type: application/json" --data '{
    "model": "'"$model"'",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"}
    ],
    "max_tokens": 100,
    "temperature": 0
}'

ask "$url/v1/chat/completions" --header "Content-Type: application/json" --data '{
    "model": "'"$model"'",
    "messages": [{"role": "user", "content": "Count to three."}],
    "max_tokens": 20,
    "stream": true,
    "stream_options": {"include_usage": true}
}'

# A value out of its range: the answer names the parameter and the range.
ask "$url/v1/completions" --header "Content-Type: application/json" \
    --data '{"model": "'"$model"'", "prompt": "x", "max_tokens": 5000}'
