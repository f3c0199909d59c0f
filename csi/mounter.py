"""The mounter: the process that serves the mounts which the holder holds, and speaks to the store and the API server.

Keeps of root's capabilities only what `resultsfs.server.capabilities` names. It may be killed at any time: the
holder gives all to the next one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from csi.api import Access, Api
from csi.configuration import Configuration
from csi.metrics import MOUNTER_GAUGES, MounterMetrics
from csi.names import ENTRYPOINT, SIDECAR
from csi.pods import PodHost
from csi.recorder import Recorder
from csi.targets import Targets
from csi.web import Web
from resultsfs import allocator
from resultsfs.collector import ByExecutable, ByLink, ForSidecar, Identify
from resultsfs.disk import NodeDisk
from resultsfs.errors import InvalidSetting
from resultsfs.holder.messages import Volume
from resultsfs.host import Host
from resultsfs.limits import raise_descriptors
from resultsfs.record import Mode, VolumeRecord
from resultsfs.server import capabilities
from resultsfs.server.provider import Provider
from resultsfs.server.server import Server
from resultsfs.settings import Settings

log = logging.getLogger(__name__)

_LOOK = 0.5
"""Seconds between looks at the node's disk, which fills also by what does not pass by."""
_ANSWER = 5.0
"""Seconds in which the loop must come round, or it hangs."""


@dataclass(frozen=True, slots=True)
class MounterOptions:
    """What the mounter is started with; see `python -m csi mounter --help`. `access` None: no API server is asked."""

    node_id: str
    kubelet: str
    state: str
    holder: str
    settings: str
    metrics: str
    access: Access | None


class PodProvider(Provider):
    """What a node's volumes need: settings of now, hosts that ask the API server, Tekton's collectors."""

    def __init__(
        self,
        configuration: Configuration,
        paths: Targets,
        api: Api | None,
        recorder: Recorder | None,
        metrics: MounterMetrics,
    ) -> None:
        super().__init__(configuration.current)
        self.observer = metrics
        self._paths = paths
        self._api = api
        self._recorder = recorder
        self._metrics = metrics

    def host(self, record: VolumeRecord, spool: Path) -> Host | None:
        """A host that asks the API server for the pod and its TaskRun, and writes Events to them."""
        return PodHost(record, self._api, self._recorder, self._metrics)

    def identify(self, volume: Volume, record: VolumeRecord) -> Identify:
        """Tekton's entrypoint, the pod's own copy of it; or its sidecar, and then entrypoints find no results.

        The copy does not exist yet when the volume is published, so it is looked up at each question.
        """
        copy = os.path.join(self._paths.pod_directory(record.pod_uid), ENTRYPOINT)
        entrypoint = ByExecutable(copy)
        if record.mode is Mode.SIDECAR_LOGS:
            return ForSidecar(ByLink(SIDECAR), entrypoint)
        return entrypoint

    def taken_over(self, volume_id: str) -> None:
        """Count it."""
        self._metrics.take_overs.inc()


class Mounter:
    """The server with all that belongs to it. Raises InvalidSetting, NotSupported, OSError at the start."""

    def __init__(self, options: MounterOptions) -> None:
        self._configuration = Configuration(options.settings)
        self.metrics = MounterMetrics()
        self._api = None if options.access is None else Api(options.access)
        self._recorder = None
        if self._api is not None:
            self._recorder = Recorder(self._api, options.node_id, self.metrics.events)
        paths = Targets(options.kubelet)
        self._provider = PodProvider(self._configuration, paths, self._api, self._recorder, self.metrics)
        os.makedirs(options.state, mode=0o700, exist_ok=True)
        self._disk = NodeDisk(options.state, lambda: self._configuration.current, self._evict)
        self._provider.disk = self._disk
        self.server = Server(options.holder, self._provider, Path(options.state, "cache"))
        self._gauges()
        self._web = Web(options.metrics, self.metrics.registry, self.health)
        self._stop = threading.Event()

    def run(self) -> None:
        """Serve until stopped; nothing is unmounted then."""
        self._configuration.watch(self._applied, self._refused)
        threading.Thread(target=self._look, name="disk", daemon=True).start()
        log.info("metrics at port %d", self._web.port)
        self.server.run()
        self._stop.set()
        self._configuration.close()
        self._web.close()
        if self._recorder is not None:
            self._recorder.close()

    def health(self) -> tuple[bool, dict[str, str]]:
        """Whether the loop comes round and the holder is there; the store is told of, and is never fatal."""
        came = threading.Event()
        self.server.loop.post(came.set)
        loop = came.wait(_ANSWER)
        store = self.metrics.store_error
        return loop, {
            "loop": "answers" if loop else f"did not come round within {_ANSWER:g} s",
            "holder": "connected" if self.server.connected else "not connected",
            "store": "in order, as far as it was asked" if store is None else store,
        }

    # -- settings -----------------------------------------------------------------------------------------

    def _applied(self, settings: Settings) -> None:
        self._provider.common = settings
        for cache in self.server.shared.caches():
            cache.bound(settings.cache_size_limit)
        self._disk.look()
        self.metrics.reloads.labels("applied").inc()

    def _refused(self, error: InvalidSetting) -> None:
        self.metrics.reloads.labels("refused").inc()

    # -- the disk -----------------------------------------------------------------------------------------

    def _evict(self, count: int) -> int:
        freed = 0
        for cache in self.server.shared.caches():
            if freed < count:
                freed += cache.shrink(count - freed)
        if freed:
            log.info("%d bytes of cached content made room on the node's disk", freed)
        return freed

    def _look(self) -> None:
        was_full = False
        while not self._stop.wait(_LOOK):
            self._disk.look()
            full = self._disk.full
            if full != was_full:
                was_full = full
                if full:
                    log.warning("the node's disk is full by its settings: writes fail with ENOSPC")
                else:
                    log.info("the node's disk has room again")

    def _gauges(self) -> None:
        reads: dict[str, Callable[[], float]] = {
            "resultsfs_mounts": lambda: self.server.served,
            "resultsfs_upload_queue": lambda: self.server.shared.queued,
            "resultsfs_cache_bytes": lambda: sum(cache.used_bytes for cache in self.server.shared.caches()),
            "resultsfs_cache_limit_bytes": lambda: self._configuration.current.cache_size_limit,
            "resultsfs_spool_bytes": lambda: self._disk.used,
            "resultsfs_spool_entries": lambda: self._disk.entries,
            "resultsfs_spool_limit_bytes": lambda: self._configuration.current.node_spool_limit,
            "resultsfs_disk_free_bytes": lambda: self._disk.free,
            "resultsfs_disk_reserve_bytes": lambda: self._disk.reserve,
            "resultsfs_disk_full": lambda: self._disk.full,
            "resultsfs_store_answers": lambda: self.metrics.store_error is None,
        }
        for name, read in reads.items():
            self.metrics.gauge(name, MOUNTER_GAUGES[name], read)


def run(options: MounterOptions) -> None:
    """Serve until SIGTERM or SIGINT; must be the main thread, and the process's only one. Raises as `Mounter`."""
    os.umask(0)
    raise_descriptors()
    allocator.share()
    kept = capabilities.keep(*capabilities.NEEDED)
    log.info("keeps the rights %s", ", ".join(kept) or "of its user alone")
    mounter = Mounter(options)

    def end(number: int, frame: FrameType | None) -> None:
        mounter.server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    mounter.run()
    logging.shutdown()
    os._exit(0)  # what still runs is abandoned already, and its threads might wait for a store
