"""The socket that a server listens at."""

from __future__ import annotations

import socket

from factorlm.errors import InputError

BACKLOG = 2048  # connections that wait to be taken


def listen(host: str, port: int) -> socket.socket:
    """A socket at which connections can wait already.

    Args:
        host: name or address.
        port: of it; 0 takes a free one.

    Raises:
        InputError: if it is taken, or no address of this machine.
    """
    try:
        [family, *_, address] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host} port {port} cannot be listened at: {reason}; take another --port or --host") from None
    # Connections inherit it. Without it a small write waits until what was sent before is acknowledged: some 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
