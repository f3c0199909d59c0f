"""A replica: everything that it consists of, put together."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from controller.admission.features import FeatureFlags
from controller.admission.lineage import Lineages
from controller.admission.pods import PodAdmission
from controller.admission.policy import Policies
from controller.admission.review import Answer, Request
from controller.admission.runs import RunAdmission
from controller.api.routes import Api, no_route
from controller.api.streamed import PATIENCE
from controller.configuration import RELOAD, Configuration, Stores, hasty, impatient
from controller.garbage.collector import Collector
from controller.garbage.leader import Leader
from controller.identity import LOOK, Identity, Place
from controller.kube.client import Kube
from controller.kube.endpoint import Endpoint
from controller.metrics import Metrics
from controller.server import DRAIN, Servers, listen
from controller.storing import Looking
from controller.webhooks import Webhook, Webhooks
from resultsfs import allocator

LEASE = "resultsfs-controller"
"""The Lease of whoever collects garbage."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    listen: str
    metrics: str
    settings: str | None
    place: Place
    drain: float = DRAIN
    patience: float = PATIENCE


class Replica:
    """One replica of the controller."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self._options = options
        self._configuration = Configuration(options.settings)
        self._metrics = Metrics()
        self._kube = Kube(endpoint)
        self._identity = Identity(self._kube, options.place)
        self._stores = Stores(self._configuration, hasty)
        self._probed = Stores(self._configuration, impatient)
        identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        leader = Leader(self._kube, options.place.namespace, LEASE, identity)
        self._collector = Collector(self._kube, self._stores, self._configuration, self._metrics, leader)

    def run(self) -> None:
        """Serve until SIGTERM. Raises OSError, InvalidSetting."""
        allocator.share()
        try:
            asyncio.run(self._run())
        finally:
            self._stores.close()
            self._probed.close()
            self._kube.close()

    async def _run(self) -> None:
        self._stores()  # a store that cannot be is told before anything listens
        servers = Servers(self._metrics, self._problem, Looking(self._probed), self._options.drain)
        with listen(self._options.listen) as https, listen(self._options.metrics) as http:
            _log.info("listening on %s and %s", https.getsockname(), http.getsockname())
            self._collector.start()
            try:
                await servers.run(
                    self._application(), self._identity.context, https, http, self._keep_identity, self._keep_settings
                )
            finally:
                await asyncio.to_thread(self._collector.stop)

    def _application(self) -> Starlette:
        policies = Policies(self._kube, self._configuration)
        pods = PodAdmission(
            self._kube,
            policies,
            Lineages(self._kube),
            FeatureFlags(self._kube, lambda: self._configuration().tekton_namespace),
            self._configuration,
            count=lambda outcome: self._metrics.pods.labels(outcome).inc(),
        )

        def answer_pod(request: Request, until: float) -> Answer:
            with self._kube.until(until):
                return pods.answer(request)

        def answer_run(request: Request, until: float) -> Answer:
            with self._kube.until(until):
                return RunAdmission(policies, self._stores, until, self._metrics.put_back.inc).answer(request)

        webhooks = {"pods": Webhook("pods", answer_pod, 12), "taskruns": Webhook("runs", answer_run, 16)}
        routes = Webhooks(self._identity, self._metrics, webhooks).routes()
        api = Api(self._kube, self._stores, self._configuration, self._metrics, self._options.patience)
        return Starlette(routes=[*routes, *api.routes()], exception_handlers={HTTPException: no_route})

    def _problem(self) -> str:
        return "" if self._identity.ready else "no valid certificate yet"

    async def _keep_identity(self, stopping: asyncio.Event) -> None:
        def expire() -> None:
            expiry = self._identity.expiry
            if expiry is not None:
                self._metrics.certificate_expiry.set(expiry.timestamp())

        async def look() -> None:
            pair = await asyncio.to_thread(self._identity.look)
            if pair is not None:
                self._identity.take(pair)
                expire()

        await _again(stopping, LOOK, look, "certificate and registration")

    async def _keep_settings(self, stopping: asyncio.Event) -> None:
        async def look() -> None:
            if await asyncio.to_thread(self._configuration.reload):
                _log.info("settings taken up")
            allocator.give_back()

        await _again(stopping, RELOAD, look, "settings")


async def _again(stopping: asyncio.Event, pause: float, action: Callable[[], object], what: str) -> None:
    """Do it until the end; a failure is told and done again."""
    while not stopping.is_set():
        try:
            await action()  # type: ignore[misc]
        except OSError as error:  # also a token's file that cannot be read for a moment
            _log.warning("%s: %s", what, error)
        except Exception:  # noqa: BLE001  # a defect must not end the replica, for the others have it too
            _log.exception("%s", what)
        try:
            await asyncio.wait_for(stopping.wait(), pause)
        except TimeoutError:
            continue
