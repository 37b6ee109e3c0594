"""Debian's sources of Go libraries as a module proxy in a directory: what Go asks on other machines."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from pathlib import Path

DEBIAN = Path("/usr/share/gocode/src")
_PARTS = {
    "github.com/golang/protobuf": "",
    "golang.org/x/net": "",
    "golang.org/x/sys": "",
    "golang.org/x/text": "",
    "google.golang.org/genproto": "googleapis/rpc",
    "google.golang.org/grpc": "",
    "google.golang.org/protobuf": "",
}
"""Module → the directory of it that programs need; empty: all of it."""


def write_proxy(home: Path, go: str) -> str:
    """Write the modules that a gRPC client needs, for a version of the language that `go` knows.

    Returns:
        The value for GOPROXY.

    """
    language = _language(go)
    sources = {module: _sources(module) for module in _PARTS if (DEBIAN / module).is_dir()}
    version = _version_of(sources)
    for module, files in sources.items():
        versions = home / module / "@v"
        versions.mkdir(parents=True)
        (versions / "list").write_text(f"{version}\n")
        info = {"Version": version, "Time": "2020-01-01T00:00:00Z"}
        (versions / f"{version}.info").write_text(json.dumps(info))
        needed = "".join(f"\t{other} {version}\n" for other in sources if other != module)
        (versions / f"{version}.mod").write_text(
            f"module {module}\n\ngo {language}\n\nrequire (\n{needed})\n"
        )
        with zipfile.ZipFile(versions / f"{version}.zip", "w") as packed:
            for file in files:
                packed.write(file, f"{module}@{version}/{file.relative_to(DEBIAN / module)}")
    return home.as_uri()


def _language(go: str) -> str:
    printed = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=True)
    found = re.match(r"go(1\.\d+)", printed.stdout)
    assert found, printed.stdout
    return found[1]


def _sources(module: str) -> list[Path]:
    return [
        file
        for file in sorted((DEBIAN / module / _PARTS[module]).rglob("*"))
        if file.suffix in (".go", ".s") and not file.name.endswith("_test.go")
    ]


def _version_of(sources: dict[str, list[Path]]) -> str:
    """One version for all modules. It changes with their files, since Go keeps what it has unpacked."""
    facts = [f"{file} {file.stat().st_size}" for files in sources.values() for file in files]
    return f"v1.0.0-x{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"
