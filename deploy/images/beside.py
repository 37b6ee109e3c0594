"""Installs a distribution's requirements beside those of an image, whose packages stay as they are.

To be run by the Python of an environment that sees the image's packages too. A package of the image that
meets our ranges is used; one that is missing, or outside of them, is installed into the environment out of
the lock file, by its hash. That must not break what the image is there for: if a package that was installed
is outside the ranges of a distribution to keep, or of anything that one needs, this fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True, slots=True)
class Unmet:
    """A range that is not met."""

    name: str
    """Normalised name of the package."""
    text: str
    """What needs it, the range, and what is there."""


def main() -> int:
    """Install, then check; 0 if all ranges are met."""
    parser = argparse.ArgumentParser(description="Installs what an image lacks, beside its own packages.")
    parser.add_argument("--lock", type=Path, required=True, help="lock file with hashes to install out of")
    parser.add_argument("--for", dest="wanted", required=True, help="the installed distribution, with extras")
    parser.add_argument("--keep", required=True, help="the distribution of the image that must go on working")
    arguments = parser.parse_args()
    if installed(arguments.keep) is None:
        sys.exit(f"beside: there is no {arguments.keep} in this image")
    locked = read_lock(arguments.lock.read_text(encoding="utf-8"))
    added: set[str] = set()
    while lacking := {unmet.name for unmet in unmet_requirements(arguments.wanted)} - added:
        if unknown := lacking - locked.keys():
            sys.exit(f"beside: not in {arguments.lock}: {', '.join(sorted(unknown))}")
        install([locked[name] for name in sorted(lacking)])
        added |= lacking
    broken = [*unmet_requirements(arguments.wanted), *unmet_requirements(arguments.keep, among=added)]
    print(f"beside: added {', '.join(sorted(added)) or 'nothing'}")  # noqa: T201
    for unmet in broken:
        print(f"beside: {unmet.text}", file=sys.stderr)  # noqa: T201
    return 1 if broken else 0


def read_lock(text: str) -> dict[str, str]:
    """Split a lock file: name → its requirements, one for each marker, with their hashes."""
    found: dict[str, str] = {}
    for entry in re.findall(r"^[\w.-]+==.*(?:\n +.*)*", text, flags=re.MULTILINE):
        name = canonicalize_name(entry.partition("==")[0])
        found[name] = found.get(name, "") + entry + "\n"
    return found


def unmet_requirements(root: str, among: set[str] | None = None) -> Iterator[Unmet]:
    """Walk what `root` needs, down to the last package, and give every range that is not met.

    Args:
        root: a requirement, as `name[extra]`; its distribution is installed.
        among: report of these packages only.

    """
    waiting, seen = [("", Requirement(root))], set()
    while waiting:
        needed_by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found = installed(name)
        if (among is None or name in among) and not meets(found, requirement):
            there = f"is {found.version} here" if found else "is missing"
            yield Unmet(name, f"{needed_by} needs {requirement}, which {there}")
        elif found is not None and (key := (name, frozenset(requirement.extras))) not in seen:
            seen.add(key)
            waiting += [(name, inner) for inner in requirements_of(found, requirement.extras)]


def requirements_of(found: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """The requirements of a distribution that count here, with these extras."""
    for text in found.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            # pip takes no notice of these either.
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            requirement.marker = None
            yield requirement


def installed(name: str) -> Distribution | None:
    """The distribution that an import finds first, if there is one."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def meets(found: Distribution | None, requirement: Requirement) -> bool:
    """Whether a distribution is there and in range. NVIDIA's own builds count as pre-releases."""
    return found is not None and requirement.specifier.contains(found.version, prereleases=True)


def install(requirements: list[str]) -> None:
    """Install exactly these into the environment."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "requirements.txt"
        file.write_text("".join(requirements), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--require-hashes", "--requirement", str(file)], check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
