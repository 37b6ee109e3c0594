"""Models on a Hugging Face hub, fetched by `huggingface_hub` under its own environment variables."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_service.models.files import ModelError, Progress, writing_to
from lodestream_common.errors import install_command

SCHEME = "hf://"
SECONDS_TO_ANSWER = 4.0
"""A hub that has not answered by then is given up where there is another source."""

_MAX_REASON = 200
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class HubReference:
    """One file of a hub repository."""

    repository: str
    """As `owner/name`."""
    file: str
    """Path inside the repository."""
    revision: str | None
    """Branch, tag or commit; None: the default branch."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}/{self.file}{at}"


def parse(reference: str) -> HubReference:
    """Read `hf://owner/repo/path/file.gguf[@revision]`.

    Raises:
        ModelError: it has another form.

    """
    location, _, revision = reference.removeprefix(SCHEME).partition("@")
    parts = location.split("/", 2)
    if len(parts) < 3 or not all(parts) or not location.lower().endswith(".gguf"):
        raise ModelError(f"{reference} names no GGUF file: write hf://owner/repo/file.gguf or ...@revision.")
    return HubReference(f"{parts[0]}/{parts[1]}", parts[2], revision or None)


def cached_file(reference: HubReference, cache_dir: Path, progress: Progress) -> Path:
    """The file in the cache directory, fetched if the hub has another than the one there.

    The library reads its own environment variables: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, ...

    Raises:
        ModelError: it cannot be fetched or written, or the fetch is to end.

    """
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise ModelError(f"hf:// models need more; run: {install_command('embedded')}") from None

    with writing_to(cache_dir):
        return _fetched(hf_hub_download, reference, progress, cache_dir=cache_dir / "hub")


def fetch_pinned(reference: HubReference, sha256: str, directory: Path, progress: Progress) -> Path:
    """Fetch a file into a directory, if a hub answers within seconds and has it with this hash.

    Raises:
        ModelError: no hub is reached, or it has no such file, or the download broke off.

    """
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise ModelError(f"Cannot fetch {reference}: the package huggingface_hub is missing.") from None
    found = _hash_on_hub(reference, progress)
    if found is not None and found != sha256:
        raise ModelError(f"Cannot fetch {reference}: the hub has another file, with sha256 {found}.")
    return _fetched(hf_hub_download, reference, progress, local_dir=directory)


def _fetched(
    download: Callable[..., str], reference: HubReference, progress: Progress, **place: Path
) -> Path:
    """Call the library's `hf_hub_download`.

    Args:
        download: the function.
        reference: what to fetch.
        progress: is told how much of it is there.
        place: where to put it: its argument `cache_dir` or `local_dir`.

    Raises:
        ModelError: it cannot be fetched, or the fetch is to end.
        OSError: it cannot be written.

    """
    try:
        path = download(
            reference.repository,
            reference.file,
            revision=reference.revision,
            tqdm_class=_bar(progress),
            **place,
        )
    except ModelError:
        raise
    except Exception as error:
        # The library does not catch the errors of the HTTP libraries that it uses.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ModelError(f"Cannot fetch {reference}: {_failure_reason(error)}") from error
    return Path(path)


def _hash_on_hub(reference: HubReference, progress: Progress) -> str | None:
    """Request a file's hash from the hub; None if it reports none.

    In a thread: neither a name server nor a hub that is silent takes longer than SECONDS_TO_ANSWER.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    answer: list[Any] = []

    def ask() -> None:
        try:
            url = hf_hub_url(reference.repository, reference.file, revision=reference.revision)
            answer.append(get_hf_file_metadata(url, timeout=SECONDS_TO_ANSWER))
        except Exception as error:
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    end = time.monotonic() + SECONDS_TO_ANSWER
    while asking.is_alive() and time.monotonic() < end:
        progress.check()
        asking.join(_POLL_SECONDS)
    if not answer:
        raise ModelError(f"Cannot fetch {reference}: {_unreachable()}")
    if isinstance(answer[0], Exception):
        raise ModelError(f"Cannot fetch {reference}: {_no_answer_reason(answer[0])}") from answer[0]
    etag = answer[0].etag
    return etag if etag is not None and re.fullmatch("[0-9a-f]{64}", etag) else None


def _no_answer_reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    return _failure_reason(error) if isinstance(error, HfHubHTTPError) else _unreachable()


def _failure_reason(error: Exception) -> str:
    from huggingface_hub import errors

    rows: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, "accept the model's terms on the hub and set HF_TOKEN."),
        (errors.RepositoryNotFoundError, "there is no such repository, or it is private; set HF_TOKEN then."),
        (errors.RevisionNotFoundError, "there is no such revision."),
        (errors.LocalEntryNotFoundError, _unreachable()),
        (errors.EntryNotFoundError, "there is no such file in the repository."),
        (errors.HFValidationError, "that is no name of a repository."),
    ]
    for kind, advice in rows:
        if isinstance(error, kind):
            return advice
    reason = str(error).strip().partition("\n")[0][:_MAX_REASON] or type(error).__name__
    return f"the download broke off ({reason}); nothing of it was kept, try again."


def _unreachable() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it."
    hub = constants.ENDPOINT
    return f"it is not in the cache, and {hub} does not answer as a hub; check the network and HF_ENDPOINT."


def _bar(progress: Progress) -> type[Any]:
    """The library's bar, which is drawn on a terminal only, and passes every block on to `progress`."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = not progress.wants_bar
            self._done = 0
            self._total = int(options.get("total") or 0)
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            progress.report(self._done, self._total)
            return super().update(n)  # type: ignore[no-any-return]

    return Bar
