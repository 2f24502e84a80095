"""Looks the pinned packages up among the known vulnerabilities.

Ends with 1 if one is found. Where the service cannot be asked, it says so and ends with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = [
    *(sys.executable, "-m", "pip_audit", "--requirement", str(PINS)),
    *("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"),
]


def main() -> int:
    asked = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        reason = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"pip-audit: the packages were not looked up: {reason}")
        return 0
    found = [(package, v["id"]) for package in packages for v in package.get("vulns", [])]
    for package, name in found:
        print(f"pip-audit: {package['name']} {package['version']} has {name}")
    skipped = sum("skip_reason" in package for package in packages)
    print(f"pip-audit: {len(packages) - skipped} packages looked up, {skipped} not known there")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
