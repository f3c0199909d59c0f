"""Prints what the project's image needs from PyPI, as pip's requirements: pyproject.toml is the one place.

    scripts/image_requirements.py [EXTRA …]

The base dependencies and those of all extras, but for the ones that develop, not run, the project (`test`) and the
stores that an image has to be made for (`gs`, `abfs`), which may be named.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
ON_DEMAND = ("gs", "abfs")
NEVER = ("test",)


def requirements(extras: tuple[str, ...] = ()) -> list[str]:
    """The requirements, sorted. Raises ValueError for an extra that cannot be chosen."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    declared: dict[str, list[str]] = project.get("optional-dependencies", {})
    for extra in extras:
        if extra not in ON_DEMAND or extra not in declared:
            raise ValueError(f"no such extra to choose: {extra!r}; there are {', '.join(ON_DEMAND)}")
    chosen = [name for name in declared if name not in NEVER and (name not in ON_DEMAND or name in extras)]
    found = {*project["dependencies"], *(line for name in chosen for line in declared[name])}
    return sorted(line for line in found if not line.startswith(f"{project['name']}["))


if __name__ == "__main__":
    print("\n".join(requirements(tuple(sys.argv[1:]))))
