"""Which request is served by what."""

from __future__ import annotations

from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.nodes import Handler
from resultsfs.kernel.protocol import Opcode


def handlers(requests: FileRequests) -> dict[int, Handler]:
    """The requests that are served, by opcode; all others get ENOSYS, upon which the kernel does without.

    ACCESS, STATX and TMPFILE are among those: the kernel checks
    permissions itself, and a file without a name could be lost.
    """
    return {
        Opcode.LOOKUP: requests.lookup,
        Opcode.FORGET: requests.forget,
        Opcode.BATCH_FORGET: requests.batch_forget,
        Opcode.GETATTR: requests.getattr,
        Opcode.SETATTR: requests.setattr,
        Opcode.READLINK: requests.readlink,
        Opcode.SYMLINK: requests.symlink,
        Opcode.MKNOD: requests.mknod,
        Opcode.MKDIR: requests.mkdir,
        Opcode.UNLINK: requests.unlink,
        Opcode.RMDIR: requests.rmdir,
        Opcode.RENAME: requests.rename,
        Opcode.RENAME2: requests.rename2,
        Opcode.LINK: requests.link,
        Opcode.OPEN: requests.open,
        Opcode.CREATE: requests.create,
        Opcode.READ: requests.read,
        Opcode.WRITE: requests.write,
        Opcode.STATFS: requests.statfs,
        Opcode.RELEASE: requests.release,
        Opcode.FLUSH: requests.flush,
        Opcode.FSYNC: requests.fsync,
        Opcode.SETXATTR: requests.setxattr,
        Opcode.GETXATTR: requests.getxattr,
        Opcode.LISTXATTR: requests.listxattr,
        Opcode.REMOVEXATTR: requests.removexattr,
        Opcode.OPENDIR: requests.opendir,
        Opcode.READDIR: requests.readdir,
        Opcode.READDIRPLUS: requests.readdirplus,
        Opcode.RELEASEDIR: requests.releasedir,
        Opcode.FSYNCDIR: requests.fsyncdir,
        Opcode.FALLOCATE: requests.fallocate,
        Opcode.LSEEK: requests.lseek,
        Opcode.COPY_FILE_RANGE: requests.copy_file_range,
        Opcode.DESTROY: lambda _: b"",
    }
