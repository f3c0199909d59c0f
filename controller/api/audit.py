"""One line of JSON for every access to the HTTP API, on the logger `resultsfs.audit`."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field

_log = logging.getLogger("resultsfs.audit")


@dataclass
class Access:
    """One access; `bytes` of content that were sent, `seconds` until the last of them."""

    method: str
    path: str
    peer: str
    user: str = ""
    namespace: str = ""
    kind: str = ""
    name: str = ""
    result: str = ""
    range: str = ""
    status: int = 0
    bytes: int = 0
    error: str = ""
    seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter, repr=False)

    def tell(self) -> None:
        """Write the line."""
        self.seconds = round(time.perf_counter() - self.began, 6)
        values = {key: value for key, value in asdict(self).items() if key != "began" and value not in ("", 0)}
        _log.info("%s", json.dumps(values, ensure_ascii=True))
