"""`make audit`: lists the licences of the app's packages; copyleft beyond LGPL and MPL is refused."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "licences.md"
LOCK = ROOT / "requirements.lock"

# words of licences that reach beyond the package itself, and those of them that do not
_COPYLEFT = re.compile(
    r"\b(A?GPL|GNU (Affero )?General Public|EUPL|CC-BY-SA|CC-BY-NC|SSPL|OSL|CPAL|BUSL)", re.IGNORECASE
)
_LESSER = re.compile(r"\bLGPL|Lesser General Public|Library General Public", re.IGNORECASE)
_HEAD = """# Licences of the packages that the app needs

Those of requirements.lock, as each package states its own. Written by `make audit`, which fails if one of
them is copyleft beyond LGPL and MPL, or states none.

| package | version | licence |
|---|---|---|
"""


def main() -> int:
    """Write the list; the exit code is 1 if a licence is not allowed or not known."""
    listed = licences()
    FILE.write_text(table(listed), encoding="utf-8")
    refused = {name: licence for name, (_, licence) in listed.items() if not allowed(licence)}
    for name, licence in refused.items():
        print(f"{name}: {licence or 'no licence is stated'}", file=sys.stderr)
    print(
        f"{len(listed)} packages, {len(refused)} with a licence that is not allowed: {FILE.relative_to(ROOT)}"
    )
    return int(bool(refused))


def licences() -> dict[str, tuple[str, str]]:
    """Version and licence of each package in the lock file that is installed; some are for other systems."""
    found = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        name = re.match(r"([\w.-]+)==", line)
        if name is None:
            continue
        try:
            package = metadata.metadata(name[1])
        except metadata.PackageNotFoundError:
            continue
        found[name[1]] = package["Version"].partition("+")[0], _stated(package)
    return found


def allowed(licence: str) -> bool:
    """Whether a licence is known and at most weakly copyleft; of several to choose from one is enough."""
    choices = re.split(r"\bOR\b", licence)
    return any(one.strip() and not _COPYLEFT.search(_LESSER.sub("", one)) for one in choices)


def table(listed: dict[str, tuple[str, str]]) -> str:
    """The list as Markdown."""
    rows = (f"| {name} | {version} | {licence} |\n" for name, (version, licence) in sorted(listed.items()))
    return _HEAD + "".join(rows)


def _stated(package: Any) -> str:
    """An SPDX expression, else what the classifiers say, else the first line of the free text."""
    classifiers = [
        one.split(" :: ")[-1] for one in package.get_all("Classifier", []) if one.startswith("License")
    ]
    text = (package.get("License") or "").strip().splitlines()
    named = [one for one in classifiers if one != "OSI Approved"]
    return str(package.get("License-Expression") or ", ".join(named) or next(iter(text), ""))[:120]


if __name__ == "__main__":
    sys.exit(main())
