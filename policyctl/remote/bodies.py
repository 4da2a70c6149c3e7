"""An answer's body, read within bounds of size, whatever the other side sends; of time `deadline` takes care."""

from __future__ import annotations

import zlib

import httpx

MAX_LIST = 64 * 1024 * 1024  # bytes of an answer to a GET, unpacked
MAX_ROW = 16 * 1024 * 1024  # bytes of any other answer
ENCODING = "gzip"


class Unbearable(Exception):
    """A body that is not read to its end; the message ends the sentence "it answered 200 with …"."""


def read_whole(response: httpx.Response) -> httpx.Response:
    """The response with its body in memory, unpacked. Raises Unbearable for one of a success that is too much.

    The words of a failure are left out where they are too much: nobody needs them, and half of them might end in half a
    secret. What has two lengths is refused whatever it says, as RFC 9112 (6.3) allows: it is not known where it ends, and
    the next answer of the connection may be part of it.
    """
    if "Content-Length" in response.headers and "Transfer-Encoding" in response.headers:
        response.close()
        raise Unbearable("two lengths, Content-Length and Transfer-Encoding")
    if _is_small(response):
        response.read()
        return response
    try:
        content = _content(response)
    except Unbearable:
        if response.is_success:
            raise
        content = b""
    finally:
        response.close()
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
    extensions = {"reason_phrase": response.extensions.get("reason_phrase", b"")}
    return httpx.Response(response.status_code, headers=kept, content=content, request=response.request, extensions=extensions)


def _is_small(response: httpx.Response) -> bool:
    """Whether a body says its size, to which HTTP then holds it, and is not packed: most are."""
    size = response.headers.get("Content-Length", "")
    is_number = size.isascii() and size.isdigit() and len(size) <= 20  # as long as HTTP libraries take them
    return is_number and int(size) <= MAX_ROW and "Content-Encoding" not in response.headers


_OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")


def _content(response: httpx.Response) -> bytes:
    most = MAX_LIST if response.request.method == "GET" else MAX_ROW
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise Unbearable(f"a body in an encoding that was not asked for ({encoding[:40]!r})")
    pieces, size = [], 0
    for piece in response.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise _too_large(most)
    content = b"".join(pieces)
    return content if encoding == "identity" else _unpacked(content, most)


def _unpacked(content: bytes, most: int) -> bytes:
    """What gzip packed. A bomb is not let go off: no more than `most` bytes are ever unpacked."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(content, most + 1)
    except zlib.error:
        raise Unbearable("a body that is not the gzip it says it is") from None
    if len(unpacked) > most:
        raise _too_large(most)
    if content and not unpacker.eof:
        raise Unbearable("a body that is cut short")
    return unpacked


def _too_large(most: int) -> Unbearable:
    return Unbearable(f"more than {most // (1024 * 1024)} MiB, which no list of policies needs")
