"""Makes all images and prints their names and sizes; given a path, writes them there as one OCI archive.

python -m tests.cluster.images [ARCHIVE]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.cluster.images import archive, recipes

began = time.monotonic()
try:
    images = recipes.everything()
except RuntimeError as error:
    sys.exit(str(error))
for image in images:
    print(f"{image.size / 1e6:8.1f} MB  {image.reference}  {image.digest}")
if len(sys.argv) > 1:
    with Path(sys.argv[1]).open("wb") as file:
        archive.write(file, images)
print(f"made or found in {time.monotonic() - began:.1f} s")
