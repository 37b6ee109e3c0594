"""Loads the llama.cpp engine: its settings, its closed HTTP port, and the errors of loading."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from inference_service.backends.base import BackendStartError
from lodestream_common.errors import install_command
from lodestream_common.machine import usable_cores, usable_memory

MAX_SLOTS = 256
"""llama.cpp's own limit on sequences (LLAMA_MAX_SEQ)."""

SPIN_COUNT = "1000"
"""Rounds that a compute thread waits actively for the others. Unlimited, as is the default, any other busy
process on the machine slows the engine down tenfold; so few cost nothing on an idle one."""

_LONGEST_SOCKET_PATH = 100
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings with which the engine is loaded."""

    model_path: Path
    context_length: int
    """Tokens of each slot."""
    slots: int
    threads: int
    """0: one for each core that this process may use."""
    prefill_chunk: int
    """Prompt tokens that every step can take."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of one step: one of each generating slot, then prompts.

        llama.cpp ends the process if this is less than the slots, and reads no prompts if it is the same.
        """
        return self.prefill_chunk + self.slots - 1


def load_engine(settings: EngineSettings) -> Any:
    """Load the model and return the running `xllamacpp.Server`, which listens nowhere.

    Blocks for as long as loading takes, and holds the GIL for most of it: xllamacpp does not release it.

    Raises:
        BackendStartError: it cannot be loaded.

    """
    _check(settings)
    xllamacpp = _import_library()
    directory = Path(tempfile.mkdtemp(prefix="lodestream-"))
    try:
        engine = _construct(xllamacpp, settings, directory / "closed.sock")
    finally:
        # The engine's HTTP server cannot be turned off. It listens on a socket in a directory that only
        # this user can enter, with a random key; the directory is deleted here, so the socket has no name.
        shutil.rmtree(directory)
    _check_context(engine, settings)
    return engine


def _check(settings: EngineSettings) -> None:
    path = settings.model_path
    if settings.slots > MAX_SLOTS:
        raise BackendStartError(f"max_concurrency: llama_cpp runs at most {MAX_SLOTS} requests at once")
    if not path.is_file():
        raise BackendStartError(f"model: there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(_GGUF_MAGIC)) != _GGUF_MAGIC:
            raise BackendStartError(
                f"model: {path} is not a GGUF file; convert the model, or name another one"
            )


def _import_library() -> Any:
    # Read by the OpenMP runtime when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        import xllamacpp
    except ModuleNotFoundError:
        raise BackendStartError(
            f"the llama_cpp engine is not installed; run: {install_command('embedded')}"
        ) from None
    except ImportError as error:
        # A shared library of the system is missing; libgomp is, on slim images.
        raise BackendStartError(f"the llama_cpp engine cannot be loaded: {error}") from None
    return xllamacpp


def _construct(library: Any, settings: EngineSettings, socket: Path) -> Any:
    if len(str(socket)) > _LONGEST_SOCKET_PATH:
        raise BackendStartError(f"TMPDIR is too long for a socket in it: {socket.parent.parent}")
    try:
        with within_free_memory(settings.model_path.stat().st_size):
            return library.Server(_parameters(library, settings, socket))
    except (RuntimeError, MemoryError, OverflowError):
        raise BackendStartError(
            f"the engine cannot load {settings.model_path}: the file is damaged or its architecture "
            f"unsupported (fetch it again, or another model), or {settings.slots} x "
            f"{settings.context_length} tokens of context do not fit into memory (lower max_concurrency "
            "or context_length)"
        ) from None


@contextmanager
def within_free_memory(mapped_bytes: int) -> Iterator[None]:
    """Make allocations fail that exceed the free memory; else the kernel kills the process a little later.

    Args:
        mapped_bytes: the size of files that are mapped, which takes address space but no memory.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + usable_memory() + mapped_bytes
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _parameters(library: Any, settings: EngineSettings, socket: Path) -> Any:
    params = library.CommonParams()
    params.model.path = str(settings.model_path)
    params.model_alias = {"served"}
    params.cpuparams.n_threads = settings.threads or usable_cores()
    _set_context(params, settings)
    _close_http_port(params, socket)
    # Prompts are rendered by the service; a template that llama.cpp cannot read must not stop it.
    params.use_jinja = False
    params.chat_template = "chatml"
    params.verbosity = -1
    return params


def _set_context(params: Any, settings: EngineSettings) -> None:
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context_length
    params.kv_unified = False
    # llama.cpp rounds a slot's share of n_ctx up; this caps it again.
    params.kv_unified_per_slot = settings.context_length
    params.fit_params = False
    params.ctx_shift = False
    params.n_batch = params.n_ubatch = settings.batch_tokens
    # Prompts are cached in the slots alone: copies in memory would grow to gigabytes.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 0


def _close_http_port(params: Any, socket: Path) -> None:
    params.hostnames = [str(socket)]
    params.api_keys = [secrets.token_hex(32)]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False


def _check_context(engine: Any, settings: EngineSettings) -> None:
    """Find the context of the engine's slots: send a prompt that is one token too long and never computed."""
    answer = engine.handle_completions({"prompt": [0] * settings.context_length, "n_predict": 1})
    found = answer.get("error", {}).get("n_ctx")
    if found != settings.context_length:
        raise BackendStartError(
            f"context_length: the engine gives a request {found} tokens; set at most that"
        )
