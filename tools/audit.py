"""`make audit`: known flaws of the packages in the lock files, as PyPI and OSV know them. Needs a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "constraints-cuda.txt")
SERVICES = ("osv", "pypi")  # the first that answers; the second knows only what is on PyPI


def main() -> int:
    """Print the flaws that are known; the exit code is 1 if there are any, 2 if nobody could be asked."""
    reasons = []
    for service in SERVICES:
        found, why = _ask(service)
        if found:
            return _report(found, service)
        reasons.append(why)
    print(f"known flaws of packages could not be looked up: {'; '.join(reasons)}", file=sys.stderr)
    return 2


def _ask(service: str) -> tuple[list[dict[str, object]], str]:
    """What a service says of each package that it knows; else why there is nothing."""
    words = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    words += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--requirement", "/dev/stdin"]
    done = subprocess.run(words, input=_pins(), capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], f"the service {service} cannot be reached"
    known = [one for one in packages if "vulns" in one]
    if not known:
        return [], f"the service {service} knows none of the packages, as a mirror may not"
    return packages, ""


def _pins() -> str:
    """The pins of all lock files, one a line."""
    lines = [line for name in LOCKS for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return "".join(f"{line.partition('#')[0]}\n" for line in lines if "==" in line.partition("#")[0])


def _report(packages: list[dict[str, object]], service: str) -> int:
    flawed = [one for one in packages if one.get("vulns")]
    for one in flawed:
        flaws = one["vulns"]
        assert isinstance(flaws, list)
        for flaw in flaws:
            print(
                f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions'])}"
            )
    skipped = [str(one["name"]) for one in packages if "vulns" not in one]
    asked = len(packages) - len(skipped)
    print(f"{asked} packages were looked up at {service}, {len(flawed)} have known flaws")
    if skipped:
        print(f"not known there: {', '.join(skipped)}")
    return int(bool(flawed))


if __name__ == "__main__":
    sys.exit(main())
