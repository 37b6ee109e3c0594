#!/usr/bin/env bash
# Run the tests that need no model on the newest Python of this machine that is newer than the given one.
# Usage: newest_python.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
ours=$("$1" -c 'import sys; print(sys.version_info.minor)')
for minor in 14 13 12; do
    [ "$minor" -gt "$ours" ] || break
    # pyenv keeps interpreters off the path.
    for python in "$(command -v "python3.$minor" || true)" ~/.pyenv/versions/3."$minor".*/bin/python3; do
        if [ -x "$python" ] && "$python" -c 'import venv, ensurepip' 2> /dev/null; then
            newest=$python
            break 2
        fi
    done
done
if [ -z "${newest:-}" ]; then
    echo "No Python newer than 3.$ours is here: skipped."
    exit 0
fi
venv=.venv-newest
echo "Testing on $("$newest" --version) ..."
"$newest" -m venv "$venv"
"$venv"/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.lock
"$venv"/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
"$venv"/bin/pytest -q -n 2 --dist loadfile -m "not model"
