"""Messages on a stream socket: a length, a JSON object, and the bytes that its "blobs" (a list of names and sizes) announces."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

LARGEST = 1 << 20  # bytes of JSON


def pack(message: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None) -> bytes:
    """The bytes of one message."""
    blobs = blobs or {}
    head = json.dumps({**message, "blobs": [[name, len(content)] for name, content in blobs.items()]}).encode()
    return b"".join((struct.pack("!I", len(head)), head, *blobs.values()))


def unpack(data: bytes | bytearray) -> tuple[dict[str, Any], dict[str, bytes], int] | None:
    """The first message of `data`, its blobs, and where the next one begins; None when it is not yet whole."""
    if len(data) < 4:
        return None
    (length,) = struct.unpack_from("!I", data)
    if length > LARGEST:
        raise ValueError(f"a message of {length} bytes")
    if len(data) < 4 + length:
        return None
    message = json.loads(bytes(data[4 : 4 + length]))
    at = 4 + length
    if len(data) < at + sum(size for _, size in message["blobs"]):
        return None
    blobs = {}
    for name, size in message.pop("blobs"):
        blobs[name] = bytes(data[at : at + size])
        at += size
    return message, blobs, at


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Wait for one message; EOFError when the other side is gone."""
    head = _exactly(connection, 4)
    head += _exactly(connection, struct.unpack("!I", head)[0])
    announced = json.loads(head[4:])["blobs"]
    found = unpack(head + _exactly(connection, sum(size for _, size in announced)))
    assert found, "a whole message was read"
    return found[0], found[1]


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), 1 << 20))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)
