"""Taking a port before anything else is done."""

import socket


class ListenFailed(Exception):
    """The address cannot be had; the message is one clear line."""


def listen(host: str, port: int) -> socket.socket:
    """Take the port first, so that a second instance fails before it touches anything.

    Raises:
        ListenFailed: somebody else has it, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ListenFailed(f"cannot listen on {host}:{port}: {error}. Set HOST and PORT to a free address.") from error
    return listener
