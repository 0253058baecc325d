"""An update: what a client tells a model node while its answer is running, as a value and as bytes.

An update carries the whole state of the client's paths, not a change to it, so updates may be lost, repeated
or overtaken by later ones. Encoded it is always UPDATE_BYTES long, and fits one cell once it is sealed.
"""

from dataclasses import dataclass

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.wire.limits import MAX_PATHS
from overlay.wire.prompt import ReplyPath
from overlay.wire.prompt_codec import read_reply_path
from overlay.wire.records import (
    pack_record,
    read_array,
    read_fields,
    read_flag,
    read_integer,
    unpack_record,
)

UPDATE_BYTES = 512
MAX_PATH_NUMBER = (1 << 16) - 1
MAX_BLOCKS = (1 << 32) - 1
_LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True)
class NumberedPath:
    """A path of an answer. Number p carries fragment p mod n of every block; p + n replaces it."""

    number: int
    proxy: NodeId
    token: bytes

    @property
    def reply(self) -> ReplyPath:
        """Where its cells go."""
        return ReplyPath(self.proxy, self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The client's paths as they are now, and how far it has read.

    have: the first `have` blocks have arrived and need never be sent again. A path that is not listed is left
    as it is. stalled: blocks after `have` are missing though the paths live, send them again on all of them.
    cancel: stop; nothing more of this answer is wanted.
    """

    have: int
    paths: tuple[NumberedPath, ...] = ()
    stalled: bool = False
    cancel: bool = False


def encode_update(update: Update) -> bytes:
    """Returns UPDATE_BYTES bytes: `length 2 | record | zeros`."""
    paths = tuple((path.number, path.proxy, path.token) for path in update.paths)
    record = pack_record((update.have, paths, update.stalled, update.cancel))
    data = (len(record).to_bytes(_LENGTH_BYTES, "big") + record).ljust(UPDATE_BYTES, b"\0")
    try:
        decode_update(data)
    except DecodeError as error:
        raise LocalProtocolError(f"this update can't be sent: {error}") from error
    return data


def decode_update(data: bytes) -> Update:
    """Reads an update. Raises DecodeError and nothing else."""
    if len(data) != UPDATE_BYTES:
        raise DecodeError("update: wrong length")
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    if end > UPDATE_BYTES or data.count(0, end) != UPDATE_BYTES - end:
        raise DecodeError("update: bad padding")
    have, paths, stalled, cancel = read_fields(unpack_record(data[_LENGTH_BYTES:end]), 4)
    return Update(
        have=read_integer(have, 0, MAX_BLOCKS),
        paths=tuple(_read_path(path) for path in read_array(paths, MAX_PATHS)),
        stalled=read_flag(stalled),
        cancel=read_flag(cancel),
    )


def _read_path(value: object) -> NumberedPath:
    number, proxy, token = read_fields(value, 3)
    reply = read_reply_path([proxy, token])
    return NumberedPath(read_integer(number, 0, MAX_PATH_NUMBER), reply.proxy, reply.token)
