"""A process that moves one large content to a store and back, and prints how much its memory grew.

    python -m tests.support.transfer_memory <settings.yaml> <MiB>

Prints one JSON object: `grown` in bytes, the growth of the largest resident size (VmHWM) beyond what a process has
that moved small content; the content is made as it is sent, and not kept when it comes back.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import uuid
from collections.abc import Iterator

from resultsfs import allocator, settings
from resultsfs.store import Key, Store

MIB = 1 << 20


def largest_resident() -> int:
    """VmHWM of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def chunks(count: int) -> Iterator[bytes]:
    """`count` MiB that are all different."""
    block = random.Random(0).randbytes(MIB - 8)
    for number in range(count):
        yield number.to_bytes(8) + block


def digest(count: int) -> str:
    """SHA-256 of `chunks(count)`."""
    hashed = hashlib.sha256()
    for chunk in chunks(count):
        hashed.update(chunk)
    return hashed.hexdigest()


def there_and_back(store: Store, count: int) -> None:
    """Put, verify, delete."""
    key = Key("team-a", uuid.uuid4(), digest(count))
    store.put(key, lambda: chunks(count), count * MIB)
    received = sum(len(block) for block in store.verified(key))
    assert received == count * MIB
    store.delete_run(key.namespace, key.run)


def main() -> None:
    """Warm up with 1 MiB, then measure."""
    path, count = sys.argv[1:]
    allocator.share()  # as all who serve do
    store = Store.open(settings.load(path))
    there_and_back(store, 1)
    before = largest_resident()
    there_and_back(store, int(count))
    print(json.dumps({"grown": largest_resident() - before}))
    store.close()


if __name__ == "__main__":
    main()
