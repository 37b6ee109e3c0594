"""Prints figures about the structure of the code: `make stats`.

Sizes are counted from the syntax trees. The modules that a streamed chat request passes, and the forms that
its data takes on the way, are traced while a real request runs: both servers in this process, over sockets,
on the simulated engine.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import statistics
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from google.protobuf.message import Message
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "inference_service",
    "rest_bridge",
    "inference_client",
    "engines",
    "lodestream",
    "lodestream_common",
)
MODEL = "smollm2-135m-instruct"
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "stream": True,
    "max_tokens": 8,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True, slots=True)
class Module:
    """One module: its dotted name, its text and its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Lines of the file, blank ones and comments too."""
        return len(self.text.splitlines())

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.split(".", 1)[0]

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


def modules() -> list[Module]:
    """Every module of the packages that contains code."""
    return [
        Module(_dotted(path), text, ast.parse(text))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (text := path.read_text()).strip()
    ]


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(module: Module, known: frozenset[str]) -> set[str]:
    """The modules of our packages that a module imports at its top level, not inside functions."""
    found: set[str] = set()
    pending: list[ast.stmt] = list(module.tree.body)
    while pending:
        match pending.pop():
            case ast.ImportFrom(module=str(source), names=names):
                found |= {
                    f"{source}.{name.name}" if f"{source}.{name.name}" in known else source for name in names
                }
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ClassDef(body=body) | ast.Try(body=body):
                pending += body
            case _:
                pass
    return found & known - {module.name}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Import cycles: groups of modules that import each other directly or indirectly (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(group)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


class RequestTrace:
    """Records the modules that run for a request, and the data classes that its data passes through."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.forms: dict[str, str] = {}
        """Class → the place where a value of it was first created."""
        self._known: dict[str, str | None] = {}

    def __enter__(self) -> RequestTrace:
        # Threads that already run are not traced; the pools start their threads with the first request.
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in {"call", "return"}:
            return
        module = self._module(frame.f_code.co_filename)
        if module is None:
            return
        self.modules.add(module)
        if event == "return" and _is_form(value):
            self.forms.setdefault(type(value).__name__, f"{module}.{frame.f_code.co_qualname}")

    def _module(self, filename: str) -> str | None:
        if filename not in self._known:
            path = Path(filename)
            ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES
            self._known[filename] = _dotted(path) if ours else None
        return self._known[filename]


def _is_form(value: object) -> bool:
    if isinstance(value, Message):
        return type(value).__module__.startswith(
            "lodestream.inference"
        ) or value.DESCRIPTOR.full_name.startswith("lodestream.")
    is_data = dataclasses.is_dataclass(value) or isinstance(value, BaseModel)
    return is_data and type(value).__module__.split(".", 1)[0] in PACKAGES


async def trace_request() -> RequestTrace:
    """Send one streamed chat request to both servers, after a warm-up request."""
    from inference_service.config import ServiceConfig
    from inference_service.server import Server
    from rest_bridge.config import BridgeConfig
    from rest_bridge.server import make_server

    keys = Path(tempfile.mkdtemp()) / "keys.json"
    service = Server(
        ServiceConfig(backend="simulated", model=MODEL, grpc_address="127.0.0.1:0", keys_file=keys)
    )
    address = str(await service.start())
    bridge = make_server(
        BridgeConfig(grpc_address=address, http_address="127.0.0.1:0", keys_file=keys), lambda _: None
    )
    serving = asyncio.create_task(bridge._serve(sockets=[bridge.socket]))
    async with asyncio.timeout(60):
        while not bridge.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{bridge.socket.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await _ask(http)
        with RequestTrace() as trace:
            await _ask(http)
    bridge.should_exit = True
    await serving
    await service.stop()
    return trace


async def _ask(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/chat/completions", json=BODY)
    reply.raise_for_status()
    if not reply.text.endswith("data: [DONE]\n\n"):
        raise RuntimeError("the stream did not end as it should")


def _quantile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def print_sizes(found: list[Module]) -> None:
    """Print a line a package: modules, lines and the lengths of functions."""
    print(f"{'package':20} {'modules':>8} {'lines':>7} {'mean':>5} {'longest':>8}   function p50/p90/max")
    groups: dict[str, list[Module]] = defaultdict(list)
    for module in found:
        groups[module.package].append(module)
    for name, group in [*groups.items(), ("all", found)]:
        lines = [module.lines for module in group]
        sizes = [
            node.end_lineno - node.lineno + 1 for m in group for node in m.functions() if node.end_lineno
        ]
        spread = f"{int(statistics.median(sizes))}/{_quantile(sizes, 0.9)}/{max(sizes)}" if sizes else "-"
        mean = sum(lines) // len(lines)
        print(f"{name:20} {len(group):8} {sum(lines):7} {mean:5} {max(lines):8}   {spread}")


def print_functions(found: list[Module]) -> None:
    """Print the longest function, and how many private functions are called only once."""
    longest = max(
        ((node.end_lineno or 0) - node.lineno + 1, f"{m.name}.{node.name}")
        for m in found
        for node in m.functions()
    )
    uses = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    private = [
        node.name
        for m in found
        for node in m.functions()
        if node.name.startswith("_") and node.name[1] != "_"
    ]
    once = sum(uses[name] <= 1 for name in private)
    print(f"longest function: {longest[1]}, {longest[0]} lines")
    print(f"private functions: {len(private)}, of them used in one place: {once}")


def main() -> int:
    """Print all figures."""
    found = modules()
    print_sizes(found)
    print_functions(found)
    known = frozenset(module.name for module in found)
    groups = circles({module.name: imports(module, known) for module in found})
    print(f"import circles: {len(groups) or 'none'}")
    for group in groups:
        print("  " + " <-> ".join(group))
    trace = asyncio.run(trace_request())
    print(f"one streamed chat request: {len(trace.modules)} modules, {len(trace.forms)} forms of its data")
    if "--list" in sys.argv:
        print(*sorted(trace.modules), sep="\n  ")
        for name, place in trace.forms.items():
            print(f"  {name:24} {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
