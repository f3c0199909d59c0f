"""How the API server and the replicas know each other: certificate, authority bundle, and a token in the webhooks' path.

All of it is in one Secret, which every replica reads again and again. What is new takes effect only after all had time
to read it, so that nothing needs to be restarted and no request meets a replica that does not know yet.

The token is there because the API server has no other way to say that it is the API server: without it any pod that
reaches the Service could ask for another namespace's content with an AdmissionReview of its own making.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import logging
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from controller import certificates, tls
from controller.kube.client import Kube
from controller.kube.errors import Conflict, NotFound
from controller.kube.resources import MUTATING_WEBHOOKS, SECRETS, Tree
from controller.tls import Pair
from resultsfs.errors import InvalidSetting

LOOK = 5.0
"""Seconds between two looks at the Secret and the webhook configuration."""
SETTLE = datetime.timedelta(seconds=20)
"""How long what is new waits until every replica and the API server have seen it."""
TOKEN_LIFE = datetime.timedelta(hours=1)
"""A token is in error messages of the API server when a webhook does not answer: it does not live long."""
PATHS = {
    "pods.resultsfs.dev": "/mutate/pods",
    "pods-again.resultsfs.dev": "/mutate/pods",
    "runs.resultsfs.dev": "/mutate/taskruns",
}
"""Where a webhook of the configuration is answered, but for the token, by its name."""
_TOKENS, _MADE = "tokens", "made"
_SHORTEST = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this replica's identity is: the Secret, the webhook configuration, and the names that it answers to.

    `certificate_directory`: somebody else makes the certificate, and the authority's bundle. `secret` "": no token.
    """

    namespace: str
    secret: str = ""
    webhooks: str = ""
    hosts: Sequence[str] = ()
    certificate_directory: str = ""
    life: datetime.timedelta = certificates.LIFE


class Identity:
    """This replica's TLS context and the tokens that it takes."""

    def __init__(self, kube: Kube, place: Place) -> None:
        self._kube = kube
        self._place = place
        self.context: ssl.SSLContext = tls.server_context()
        self._pair: Pair | None = None
        self._tokens: tuple[str, ...] = ()

    @property
    def expiry(self) -> datetime.datetime | None:
        """When the certificate in use expires; None without one."""
        return None if self._pair is None else certificates.facts(self._pair.certificate).expiry

    @property
    def ready(self) -> bool:
        """Whether there is a certificate in use that has not expired."""
        expiry = self.expiry
        return expiry is not None and expiry > _now()

    def admits(self, token: str) -> bool:
        """Whether a request with this token (or "") comes from the API server."""
        if not self._place.secret:
            return token == ""
        return any(hmac.compare_digest(token.encode(), known.encode()) for known in self._tokens)

    def look(self) -> Pair | None:
        """Look at the Secret, renew what is due, register; the pair to `take` where it is another than the one in use.

        Raises ApiError, InvalidSetting.
        """
        place = self._place
        bundle: bytes | None = None
        found: Pair | None = None
        if place.certificate_directory:
            found = tls.read_pair(place.certificate_directory)
        token = ""
        if place.secret:
            secret = self._secret()
            data = {key: base64.b64decode(text) for key, text in (secret.get("data") or {}).items()}
            if renewed := self._renewed(data):
                secret["data"] = {key: base64.b64encode(value).decode() for key, value in renewed.items()}
                try:
                    self._kube.update(SECRETS, place.namespace, secret)
                except Conflict:  # another replica was first: its work is read the next time
                    _log.info("Secret %s/%s was renewed by another replica", place.namespace, place.secret)
                    return None
                data = renewed
            tokens = _tokens(data)
            self._tokens = tuple(entry["token"] for entry in tokens)
            token = _active(tokens)
            if not place.certificate_directory:
                bundle = data["ca.crt"]
                found = Pair(data["tls.crt"], data["tls.key"])
                if self.ready and _now() - _made(data) < SETTLE:
                    found = self._pair
        if place.webhooks and (bundle is not None or token):
            try:
                self._register(bundle, token)
            except NotFound as error:  # what there is to serve is served, and registered when it is back
                _log.warning("nobody asks this replica: %s", error)
        if found is None or found == self._pair:
            return None
        certificates.facts(found.certificate)  # asked for here, so that the event loop need not wait
        return found

    def take(self, pair: Pair) -> None:
        """Use a pair from now on; in the thread of the event loop. Raises InvalidSetting."""
        tls.use(self.context, pair)
        self._pair = pair
        _log.info("certificate in use until %s", self.expiry)

    def _secret(self) -> Tree:
        place = self._place
        try:
            return self._kube.get(SECRETS, place.namespace, place.secret)
        except NotFound:
            empty = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": place.secret, "namespace": place.namespace},
                "type": "Opaque",
            }
            return self._kube.create(SECRETS, place.namespace, empty)

    def _renewed(self, data: dict[str, bytes]) -> dict[str, bytes] | None:
        """The Secret's data with what is due made anew; None when nothing is."""
        renewed = dict(data)
        now = _now()
        if not self._place.certificate_directory and _is_due(data, now):
            made = certificates.make(self._place.hosts, self._place.life, data.get("ca.crt", b""))
            renewed |= {"ca.crt": made.bundle, "tls.crt": made.pair.certificate, "tls.key": made.pair.key}
            renewed[_MADE] = now.isoformat().encode()
        tokens = _tokens(data)
        if not tokens or now - _time(tokens[-1]["made"]) > TOKEN_LIFE:
            tokens = [*tokens[-1:], {"token": secrets.token_hex(24), "made": now.isoformat()}]
            renewed[_TOKENS] = json.dumps(tokens).encode()
        return renewed if renewed != data else None

    def _register(self, bundle: bytes | None, token: str) -> None:
        name = self._place.webhooks
        configuration = self._kube.get(MUTATING_WEBHOOKS, None, name)
        encoded = None if bundle is None else base64.b64encode(bundle).decode()
        operations: list[Tree] = []
        for index, webhook in enumerate(configuration.get("webhooks") or []):
            client, path = webhook["clientConfig"], PATHS.get(webhook["name"])
            if path is None:
                continue  # somebody else's
            # By its name and not by the path that is there, which may be anything: an old token, or none.
            wanted = _addressed(client, f"{path}/{token}" if token else path)
            if encoded is not None:
                wanted["caBundle"] = encoded
            if wanted != client:
                operations.append({"op": "replace", "path": f"/webhooks/{index}/clientConfig", "value": wanted})
        if operations:
            version = configuration["metadata"]["resourceVersion"]
            unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
            self._kube.json_patch(MUTATING_WEBHOOKS, None, name, [unchanged, *operations])
            _log.info("webhook configuration %s: registered", name)


def _addressed(client: Tree, path: str) -> Tree:
    """A webhook's clientConfig with another path."""
    wanted = dict(client)
    if "service" in client:
        wanted["service"] = {**client["service"], "path": path}
    elif "url" in client:
        wanted["url"] = urlunsplit(urlsplit(client["url"])._replace(path=path))
    return wanted


def _active(tokens: list[dict[str, str]]) -> str:
    """The newest token that all replicas know by now, else the oldest."""
    settled = [entry for entry in tokens if _now() - _time(entry["made"]) >= SETTLE]
    return (settled[-1] if settled else tokens[0])["token"]


def _is_due(data: dict[str, bytes], now: datetime.datetime) -> bool:
    if not {"tls.crt", "tls.key", "ca.crt", _MADE} <= data.keys():
        return True
    try:
        _made(data)
    except ValueError as error:
        _log.warning("the Secret does not say when its certificate was made, a new one is: %s", error)
        return True
    try:
        facts = certificates.facts(data["tls.crt"], data["ca.crt"])
    except InvalidSetting as error:
        _log.warning("the certificate in the Secret is none, a new one is made: %s", error)
        return True
    return now >= facts.renewal or not facts.signed


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _made(data: dict[str, bytes]) -> datetime.datetime:
    """When the certificate was made. Raises ValueError."""
    return _time(data[_MADE].decode())


def _tokens(data: dict[str, bytes]) -> list[dict[str, str]]:
    """The tokens, the oldest first; none where what is there cannot be read."""
    try:
        tokens = [{"token": entry["token"], "made": entry["made"]} for entry in json.loads(data.get(_TOKENS, b"[]"))]
        for entry in tokens:
            _time(entry["made"])
            if len(entry["token"].encode()) < _SHORTEST:
                raise ValueError("a token that is too short")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        _log.warning("the tokens in the Secret cannot be read, a new one is made")  # the error would show them
        return []
    return tokens


def _time(text: str) -> datetime.datetime:
    """Raises ValueError, also for a time of no zone."""
    found = datetime.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found
