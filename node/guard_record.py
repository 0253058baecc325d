"""The guard sample as the state file keeps it: JSON that this daemon wrote, read back with care all the same."""

import json

from crypto.errors import DecodeError
from crypto.identity import decode_node_id
from overlay.routing.guards import Guard, GuardSample

MAX_GUARDS = 64


def encode_sample(sample: GuardSample) -> bytes:
    """The sample, in its order."""
    rows = [
        [guard.node_id.hex(), guard.since_unix, guard.until_unix, guard.away_since_unix]
        for guard in sample.guards
    ]
    return json.dumps(rows).encode()


def decode_sample(data: bytes) -> GuardSample:
    """Read a sample. Raises DecodeError for anything else."""
    try:
        rows = json.loads(data)
        if not isinstance(rows, list) or len(rows) > MAX_GUARDS:
            raise DecodeError("guards: not a short list")
        return GuardSample(tuple(_read_guard(*row) for row in rows))
    except (ValueError, TypeError, RecursionError):
        raise DecodeError("guards: not a sample") from None


def _read_guard(node_id: str, since_unix: object, until_unix: object, away_since_unix: object) -> Guard:
    read_id = decode_node_id(bytes.fromhex(node_id))
    away = None if away_since_unix is None else _read_time(away_since_unix)
    return Guard(read_id, _read_time(since_unix), _read_time(until_unix), away)


def _read_time(value: object) -> int:
    if type(value) is not int:
        raise DecodeError("guards: not a time")
    return value
