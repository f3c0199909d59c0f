"""The errors of resultsfs: each names the thing, the value and the way out, and carries an errno."""

from __future__ import annotations

import errno


class ResultsError(OSError):
    """Base of all errors that resultsfs raises on purpose.

    An OSError, so that a file operation that fails answers the kernel with `errno` and nothing has to
    translate. `str()` is the message alone, a sentence for people.
    """

    default_errno = errno.EIO

    def __init__(self, message: str, errno_: int | None = None) -> None:
        super().__init__(self.default_errno if errno_ is None else errno_, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class InvalidSetting(ResultsError, ValueError):
    """A setting, annotation or option whose key or value is not allowed."""

    default_errno = errno.EINVAL


class InvalidReference(ResultsError, ValueError):
    """A string that should be a reference and is not."""

    default_errno = errno.EINVAL


class InvalidKey(ResultsError, ValueError):
    """A namespace, run, digest or name that cannot be part of a name in the store."""

    default_errno = errno.EINVAL


class InvalidRecord(ResultsError, ValueError):
    """A volume's record with an unknown, missing or bad field."""

    default_errno = errno.EINVAL


class InvalidKnob(ResultsError, ValueError):
    """An attribute of a volume that is unknown, missing or bad."""

    default_errno = errno.EINVAL


class StoreError(ResultsError):
    """The store failed. `temporary` says whether trying again can help; retrying is in `store` alone."""

    temporary = False


class StoreUnavailable(StoreError):
    """The store cannot be reached, is overloaded or timed out: trying again can help."""

    default_errno = errno.EAGAIN
    temporary = True


class StoreRefused(StoreError):
    """The store said no for good: credentials, missing bucket, bad request, no space left."""

    default_errno = errno.EACCES


class ContentMissing(StoreError, FileNotFoundError):
    """There is no such content in this namespace's part of the store."""

    default_errno = errno.ENOENT


class ContentMismatch(StoreError):
    """What the store returned does not have the SHA-256 that the reference names."""

    default_errno = errno.EIO


class ContentTooLarge(StoreError):
    """The content is larger than the caller is ready to take into memory."""

    default_errno = errno.EFBIG


class UploadAbandoned(ResultsError):
    """The content changed, or its volume went, while it was being uploaded; nothing was stored."""

    default_errno = errno.ECANCELED


class ResultTooLarge(ResultsError):
    """A write would make one file larger than `result-size-limit`."""

    default_errno = errno.EFBIG


class VolumeFull(ResultsError):
    """A write would make the volume larger than `volume-size-limit`."""

    default_errno = errno.ENOSPC


class TooManyOpenFiles(ResultsError):
    """A volume has `volume-open-files` open, or all volumes together what their process may."""

    default_errno = errno.EMFILE


class NodeDiskFull(VolumeFull):
    """A write would take more of the node's disk than all volumes together may."""


class InvalidMessage(ResultsError, ValueError):
    """A message between holder, server and their clients that is not one of theirs; what is wrong is named."""

    default_errno = errno.EBADMSG


class HolderGone(ResultsError):
    """The holder cannot be reached, or has ended."""

    default_errno = errno.ENOTCONN


class ResolveError(ResultsError):
    """A reference in a consumer's params cannot be put back; the message says which param and why."""

    default_errno = errno.EINVAL


class InvalidDocument(ResultsError, ValueError):
    """A YAML document that Tekton would refuse, or that the local runner does not support; the path is named."""

    default_errno = errno.EINVAL


class TakeOverRefused(ResultsError):
    """A mount whose server died cannot be served on; who holds its descriptor closes it, which ends the mount."""

    default_errno = errno.ECONNABORTED


class NotSupported(ResultsError):
    """This machine lacks something (device, kernel feature, library, right); the message says what to do."""

    default_errno = errno.ENOSYS


class MountError(ResultsError):
    """Mounting or unmounting failed."""
