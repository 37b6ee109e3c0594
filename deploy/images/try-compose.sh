#!/bin/sh
# Run compose.yaml's profile `cpu` under a name of its own, ask it a question, and leave nothing behind.
set -eu
cd "$(dirname "$0")/../.."
export BRIDGE_ADDRESS="${BRIDGE_ADDRESS:-127.0.0.1:58000}" SERVICE_ADDRESS="${SERVICE_ADDRESS:-127.0.0.1:55051}"
compose() { docker compose --project-name lodestream-try --profile cpu --profile keys "$@"; }

finish() {
    status=$?
    trap - EXIT
    test "$status" = 0 || compose logs || true
    compose down --volumes --timeout 40
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

key="$(compose run --rm keys create --name try)"
compose up --detach cpu bridge
echo "$key" | python3 deploy/images/ask.py "$BRIDGE_ADDRESS" --wait 300
