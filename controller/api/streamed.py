"""A response whose content is sent piece by piece, to somebody who takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

PIECE = 256 << 10
"""Bytes that are handed to the connection at a time."""
PATIENCE = 60.0
"""Seconds for which a caller may take nothing. The connection is asked for room for a piece, and has some again when about
two thirds of what is under way have been taken: from a slow caller's some 1.5 MB."""


class _Stalled(Exception):
    """Nothing was taken for too long."""


class Streamed(StreamingResponse):
    """A response that does something at its end, also where it never began to be sent.

    `patience` in seconds: the connection of a caller that takes nothing for so long is broken off, after `stalled`.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        patience: float,
        stalled: Callable[[], None],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(body, status, headers, media_type)
        self._patience = patience
        self._stalled = stalled
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def timely(message: Message) -> None:
            with anyio.move_on_after(self._patience):
                await send(message)
                return
            raise _Stalled

        try:
            await super().__call__(scope, receive, timely)
        except _Stalled:
            self._stalled()  # the server closes a connection whose answer is not whole
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()
