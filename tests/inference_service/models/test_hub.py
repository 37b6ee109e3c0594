from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.models.files import ModelError
from inference_service.models.hub import HubReference, parse
from tests.inference_service.models.hub_stand_in import COMMIT, StandInHub, running_hub
from tests.inference_service.models.terminal import shown_on_a_terminal

pytestmark = pytest.mark.slow

MODEL = b"GGUF" + bytes(range(256)) * 400
REFERENCE = "hf://owner/repo/deep/Tiny-Model.Q4.gguf"

FETCH = """
import sys
from pathlib import Path
from inference_service.models.files import ModelError
from inference_service.models.loader import resolve
try:
    found = resolve(sys.argv[1], Path(sys.argv[2]), show_progress=True)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
print(found.id, found.path)
"""


STOPPED = FETCH.replace("show_progress=True", "show_progress=True, stop=stop").replace(
    "try:", "import threading\nstop = threading.Event()\nstop.set()\ntry:"
)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with running_hub() as hub:
        hub.files["owner/repo/deep/Tiny-Model.Q4.gguf"] = MODEL
        yield hub


def fetch(
    reference: str, cache_dir: Path, hub: StandInHub, script: str = FETCH, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Resolve in a new process, since the library reads its environment when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", script, reference, str(cache_dir)],
        env=clean
        | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache_dir / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def left_behind(cache_dir: Path) -> list[Path]:
    """The files with model data in the cache, complete or not."""
    return [path for path in (cache_dir / "hub").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_file_is_fetched_once_and_served_by_its_name(hub: StandInHub, tmp_path: Path) -> None:
    """The id is the file's stem in lower case; a second start finds the file in the cache."""
    first = fetch(REFERENCE, tmp_path, hub)
    second = fetch(REFERENCE, tmp_path, hub)

    assert first.returncode == 0, first.stderr
    model_id, path = first.stdout.split()
    assert model_id == "tiny-model.q4"
    assert Path(path).read_bytes() == MODEL
    assert second.stdout == first.stdout
    assert hub.downloads == 1


def test_a_cached_file_needs_no_hub(hub: StandInHub, tmp_path: Path) -> None:
    fetched = fetch(REFERENCE, tmp_path, hub)
    offline = fetch(REFERENCE, tmp_path, hub, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:1")

    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == fetched.stdout


def test_a_revision_can_be_named(hub: StandInHub, tmp_path: Path) -> None:
    assert fetch(f"{REFERENCE}@{COMMIT}", tmp_path, hub).returncode == 0


def test_the_token_of_the_environment_is_sent(hub: StandInHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"

    assert fetch(REFERENCE, tmp_path, hub, HF_TOKEN="hf_secret").returncode == 0


@pytest.mark.parametrize(
    ("reference", "advice"),
    [
        (f"{REFERENCE}@no-such-branch", "there is no such revision"),
        ("hf://owner/repo/other.gguf", "there is no such file in the repository"),
        ("hf://owner/other/file.gguf", "there is no such repository"),
    ],
)
def test_the_error_names_what_the_hub_lacks(
    reference: str, advice: str, hub: StandInHub, tmp_path: Path
) -> None:
    failed = fetch(reference, tmp_path, hub)

    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert f"Cannot fetch {reference}: {advice}" in failed.stderr


@pytest.mark.parametrize(
    ("gated", "advice"), [(False, "it is private; set HF_TOKEN"), (True, "accept the model's")]
)
def test_the_error_says_that_the_hub_needs_a_token(
    gated: bool, advice: str, hub: StandInHub, tmp_path: Path
) -> None:
    hub.token, hub.gated = "hf_secret", gated
    failed = fetch(REFERENCE, tmp_path, hub)

    assert failed.returncode == 1
    assert advice in failed.stderr


def test_a_broken_download_leaves_no_file(hub: StandInHub, tmp_path: Path) -> None:
    """The next start with a working hub fetches the whole file."""
    hub.sent = 0.5
    failed = fetch(REFERENCE, tmp_path, hub)
    left = left_behind(tmp_path)
    hub.sent = 1.0
    mended = fetch(REFERENCE, tmp_path, hub)

    assert failed.returncode == 1
    assert "ModelError: Cannot fetch hf://owner/repo" in failed.stderr
    assert "nothing of it was kept, try again" in failed.stderr
    assert left == []
    assert Path(mended.stdout.split()[1]).read_bytes() == MODEL


def test_an_address_without_a_hub_is_named(hub: StandInHub, tmp_path: Path) -> None:
    """An example is the login page of a network."""
    hub.is_hub = False
    failed = fetch(REFERENCE, tmp_path, hub)

    assert failed.returncode == 1
    assert f"{hub.url} does not answer as a hub; check the network and HF_ENDPOINT" in failed.stderr


def test_offline_mode_is_named(hub: StandInHub, tmp_path: Path) -> None:
    failed = fetch(REFERENCE, tmp_path, hub, HF_HUB_OFFLINE="1")

    assert failed.returncode == 1
    assert "HF_HUB_OFFLINE forbids" in failed.stderr
    assert hub.downloads == 0


def test_a_download_can_be_stopped(hub: StandInHub, tmp_path: Path) -> None:
    failed = fetch(REFERENCE, tmp_path, hub, script=STOPPED)

    assert "ModelError: Fetching the model was stopped" in failed.stderr
    assert hub.downloads == 1
    assert left_behind(tmp_path) == []


def test_on_a_terminal_the_library_shows_its_bar(hub: StandInHub, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FETCH, REFERENCE, str(tmp_path)]

    assert "100%" in shown_on_a_terminal(
        command, os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    )


def test_a_reference_has_an_owner_a_repository_a_file_and_maybe_a_revision() -> None:
    assert parse("hf://a/b/c.gguf") == HubReference("a/b", "c.gguf", None)
    assert parse("hf://a/b/c/d.GGUF@refs/pr/1") == HubReference("a/b", "c/d.GGUF", "refs/pr/1")


@pytest.mark.parametrize("reference", ["hf://", "hf://a", "hf://a/b", "hf://a/b/c.bin", "hf://a//c.gguf"])
def test_an_invalid_reference_is_refused(reference: str) -> None:
    with pytest.raises(ModelError, match=r"write hf://owner/repo/file\.gguf"):
        parse(reference)
