"""Watches the Python that starts with this folder on its path, and so every child of a watched one.

A line of MEDTUNE_WATCH for the process and for each address it looks up, connects to or listens on; what is not this
machine is refused. It imports nothing of medtune: a child may be any interpreter. What a library does in C, past
Python's sockets, it does not see.
"""

import ipaddress
import json
import os
import socket
import sys
from typing import Any

LOG = os.environ.get("MEDTUNE_WATCH")
ADDRESSED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")  # (socket, address)
NAMED = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")  # (host, ...)


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook; see ``sys.addaudithook``."""
    if event in ADDRESSED and args[0].family != getattr(socket, "AF_UNIX", None) and args[1] is not None:
        _judge(event, args[1][0])
    elif event in NAMED and args[0]:
        _judge(event, args[0])


def _judge(event: str, host: Any) -> None:
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    _write(event, name, here := _here(name))
    if not here:
        raise PermissionError(f"{event} {name}: nothing may leave this machine here")


def _here(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _write(event: str, host: str, here: bool) -> None:
    row = {"event": event, "host": host, "here": here, "process": sys.orig_argv[:4]}
    handle = os.open(str(LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, json.dumps(row).encode() + b"\n")  # in one piece: many processes write here
    os.close(handle)


if LOG:
    _write("process", "", True)
    sys.addaudithook(watch)
