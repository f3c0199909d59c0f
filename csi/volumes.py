"""The volumes of this node, as their records on the disk say: what a restarted driver knows.

<data>/volumes/<volume id>/record.json     the volume's record; beside it its spool (`resultsfs.spool`)
<data>/volumes/<volume id>/target.json     where it is published
<data>/volumes/.new-<uuid>                 a volume that is being made
<data>/volumes/.gone-<uuid>                one that is being removed
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from csi import trees
from resultsfs import spool
from resultsfs.errors import InvalidRecord
from resultsfs.record import VolumeRecord, is_volume_id

log = logging.getLogger(__name__)

_NEW, _GONE = ".new-", ".gone-"


@dataclass(frozen=True, slots=True)
class Published:
    """A volume and the path where the kubelet wants it; `directory` is its spool's."""

    record: VolumeRecord
    target: str
    directory: str


class Volumes:
    """The volumes below `<data>/volumes`. Each volume is touched under its own lock, which the caller holds."""

    def __init__(self, data: str) -> None:
        self.directory = os.path.join(data, "volumes")
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self._in_hand: set[str] = set()  # hidden names that a request is busy with

    def directory_of(self, volume_id: str) -> str:
        """A volume's directory, whether it is there or not; for an id that can be one."""
        return os.path.join(self.directory, volume_id)

    def find(self, volume_id: str) -> Published | None:
        """The volume of an id; None for an unknown one, and for one whose record was torn by a crash of the node."""
        if not is_volume_id(volume_id):
            return None
        directory = self.directory_of(volume_id)
        try:
            record = spool.read_record(directory)
            with open(os.path.join(directory, "target.json"), encoding="utf-8") as file:
                target = json.load(file)["target"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (InvalidRecord, ValueError, KeyError, TypeError) as error:
            log.warning("the record of volume %s cannot be used: %s", volume_id, error)
            return None
        return Published(record, str(target), directory)

    def all(self) -> Iterator[Published]:
        """All volumes that have a record."""
        for name in sorted(os.listdir(self.directory)):
            found = self.find(name)
            if found is not None:
                yield found

    def unreadable(self) -> Iterator[str]:
        """Ids of what lies here without a record that can be used."""
        for name in sorted(os.listdir(self.directory)):
            if is_volume_id(name) and self.find(name) is None:
                yield name

    def make(self, record: VolumeRecord, target: str) -> Published:
        """Write a new volume's record; the directory appears at once and whole. Files of one that was torn stay.

        Its id is one, or there were no such record. Raises OSError.
        """
        directory = self.directory_of(record.volume_id)
        with self._hidden(_NEW) as fresh:
            self._make(fresh, directory, record, target)
        return Published(record, target, directory)

    def _make(self, fresh: str, directory: str, record: VolumeRecord, target: str) -> None:
        os.mkdir(fresh, 0o700)
        try:
            texts = {"record.json": record.to_json(), "target.json": json.dumps({"target": target})}
            for name, text in texts.items():
                with open(os.path.join(fresh, name), "w", encoding="utf-8") as file:
                    file.write(text)
            if os.path.isdir(directory):
                for name in texts:
                    os.replace(os.path.join(fresh, name), os.path.join(directory, name))
                os.rmdir(fresh)
            else:
                os.rename(fresh, directory)
        except OSError:
            trees.remove(fresh)
            raise

    def remove(self, volume_id: str) -> None:
        """Remove a volume's files; one that is gone is fine, and so is what cannot be an id. Raises OSError."""
        if not is_volume_id(volume_id):
            return
        with self._hidden(_GONE) as gone, suppress(FileNotFoundError):
            os.rename(self.directory_of(volume_id), gone)
            trees.remove(gone)

    def leftovers(self) -> Iterator[str]:
        """Paths of what a killed process, or a request that failed, left half made or half removed."""
        for name in os.listdir(self.directory):
            if name.startswith((_NEW, _GONE)) and name not in self._in_hand:
                yield os.path.join(self.directory, name)

    @contextmanager
    def _hidden(self, prefix: str) -> Iterator[str]:
        """A path for what is being made or removed, which is no leftover meanwhile."""
        name = f"{prefix}{uuid.uuid4()}"
        self._in_hand.add(name)
        try:
            yield os.path.join(self.directory, name)
        finally:
            self._in_hand.discard(name)
