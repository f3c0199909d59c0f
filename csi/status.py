"""gRPC status codes of our errors (CSI 1.12, "Error Scheme")."""

from __future__ import annotations

import errno

import grpc

from csi.locks import Busy
from csi.targets import InvalidTarget, TargetOccupied
from resultsfs.errors import InvalidKnob, InvalidRecord, MountError, ResultsError

_AGAIN = (errno.EAGAIN, errno.EBUSY)


class Refused(ResultsError):
    """A request that is answered with a status code of its own."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code that answers for an error.

    UNAVAILABLE: try again, what serves mounts is not there; RESOURCE_EXHAUSTED: the node's disk is full; INTERNAL:
    whatever nobody foresaw.
    """
    if isinstance(error, Refused):
        return error.code
    if isinstance(error, InvalidKnob | InvalidRecord | InvalidTarget):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, Busy):
        return grpc.StatusCode.ABORTED
    if isinstance(error, TargetOccupied):
        return grpc.StatusCode.INTERNAL
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, ConnectionError) or (isinstance(error, MountError) and error.errno in _AGAIN):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.StatusCode.INTERNAL
