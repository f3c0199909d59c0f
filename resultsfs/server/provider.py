"""What a server asks of whoever runs it: for each volume its settings, its host and its collectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from resultsfs import settings as settings_module
from resultsfs.collector import ByExecutable, ByParent, Identify, nobody
from resultsfs.disk import Disk, Unbounded
from resultsfs.holder.messages import Volume
from resultsfs.host import Host
from resultsfs.observer import Observer, Unobserved
from resultsfs.record import VolumeRecord
from resultsfs.settings import Settings


class Provider:
    """One that knows no more than the volume's own message and the settings of those that come without.

    Called on several threads; may read small files, must not wait for a network.
    """

    def __init__(self, settings: Settings) -> None:
        self.common = settings
        self.observer: Observer = Unobserved()
        self.disk: Disk = Unbounded()

    def settings(self, volume: Volume, record: VolumeRecord) -> Settings:
        """The settings of a volume, narrowed by its record. Raises InvalidSetting."""
        found = self.common
        if volume.settings:
            found = settings_module.from_text(volume.settings, f"settings of volume {volume.volume_id}")
        if record.threshold is not None:
            found = dataclasses.replace(found, result_size_threshold=record.threshold)
        return found

    def host(self, record: VolumeRecord, spool: Path) -> Host | None:
        """The host of a volume; None for the record's own."""
        return None

    def identify(self, volume: Volume, record: VolumeRecord) -> Identify:
        """Who collects a volume's results."""
        if volume.collector_parent:
            return ByParent(volume.collector_parent)
        return ByExecutable(*volume.collectors) if volume.collectors else nobody

    def taken_over(self, volume_id: str) -> None:
        """A volume that another server has served is served here now."""

    def ended(self, volume_id: str) -> None:
        """A volume is not served any more, and its spool's files are closed."""
