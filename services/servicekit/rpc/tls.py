"""Mutual TLS between services: certificates from files, read again when they change.

Whoever issues certificates (cert-manager, say) renews them in place; neither side is restarted for it. A server hands
the new one to whoever connects next, a client connects anew. Each side shows a certificate and trusts one authority.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from servicekit.errors import StartupError
from servicekit.logs import get_logger

_LAST_CALLS_S: Final = 600.0  # no deadline is longer
_Contents = tuple[bytes, bytes, bytes]
_Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the PEM files lie.

    Args:
        certificate: The service's own certificate, with the chain up to the authority.
        key: Its private key.
        authority: The certificates of the authority that signs those of all services.
    """

    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> _Stamp:
        """Give what changes when a file does, links followed."""
        stats = (path.stat() for path in (self.certificate, self.key, self.authority))
        return tuple((each.st_ino, each.st_mtime_ns) for each in stats)

    def read(self) -> _Contents:
        """Give the certificate, the key and the authority."""
        return self.certificate.read_bytes(), self.key.read_bytes(), self.authority.read_bytes()


class _Watched:
    """The files as last seen.

    Raises:
        StartupError: At the beginning: a file cannot be read; names it.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        try:
            self._stamp = files.stamp()
            self.first = files.read()
        except OSError as error:
            raise StartupError(
                f"the TLS file {error.filename} cannot be read: {error.strerror}; see TLS_CERT_FILE, TLS_KEY_FILE and "
                "TLS_CA_FILE"
            ) from error
        self._log = get_logger(__name__)

    def news(self) -> _Contents | None:
        """Give the contents when they are other files since the last time; None while they are being replaced."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            contents = self._files.read()
        except OSError as error:
            self._log.warning("the certificates cannot be read; the last ones stay", error=str(error))
            return None
        self._stamp = stamp
        return contents


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Give credentials of a server that asks clients for a certificate, and looks at its files at each handshake.

    Raises:
        StartupError: A file cannot be read; names it.
    """
    watched = _Watched(files)

    def newest() -> Any:
        news = watched.news()
        return None if news is None else _server_configuration(news)

    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(watched.first), newest, require_client_authentication=True
    )


def _server_configuration(contents: _Contents) -> Any:
    certificate, key, authority = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)


def client_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Give credentials of a client as the files are now.

    Raises:
        StartupError: A file cannot be read; names it.
    """
    return _client_credentials(_Watched(files).first)


def _client_credentials(contents: _Contents) -> grpc.ChannelCredentials:
    certificate, key, authority = contents
    return grpc.ssl_channel_credentials(authority, key, certificate)


class ReloadingChannel:
    """A channel for stubs that becomes another one when the certificates change.

    Calls under way end on the channel on which they began, which is closed after them. It is what stubs and RpcChannel
    need of a grpc.aio.Channel.
    """

    def __init__(self, files: TlsFiles, connect: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._watched = _Watched(files)
        self._generation = 0
        self._channel = connect(_client_credentials(self._watched.first))
        self._old: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def renew_if_changed(self) -> None:
        """Look at the files; who has many calls to make looks now and then."""
        news = self._watched.news()
        if news is not None:
            self._old[self._channel] = asyncio.create_task(self._close_after_its_calls(self._channel))
            self._channel = self._connect(_client_credentials(news))
            self._generation += 1

    def unary_unary(self, *arguments: Any, **options: Any) -> "_Callable":
        """Make what a stub calls; it outlives the channel."""
        return _Callable(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> "_Callable":
        """Make what a stub calls; it outlives the channel."""
        return _Callable(self, "unary_stream", arguments, options)

    async def channel_ready(self) -> None:
        """Wait for the connection."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """Close this and all earlier channels."""
        for closing in self._old.values():
            closing.cancel()
        for channel in (*self._old, self._channel):
            await channel.close()

    async def _close_after_its_calls(self, channel: grpc.aio.Channel) -> None:
        await channel.close(grace=_LAST_CALLS_S)
        del self._old[channel]

    @property
    def now(self) -> tuple[int, grpc.aio.Channel]:
        """Give the number of the channel, counted from 0, and the channel."""
        return self._generation, self._channel


class _Callable:
    """A method of a stub on whichever channel is the newest."""

    def __init__(
        self, channel: ReloadingChannel, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._arguments = arguments
        self._options = options
        self._generation = -1
        self._inner: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        generation, channel = self._channel.now
        if generation != self._generation:
            self._inner = getattr(channel, self._kind)(*self._arguments, **self._options)
            self._generation = generation
        return self._inner(*arguments, **options)
