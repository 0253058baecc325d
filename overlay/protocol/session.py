"""Names of sessions: with whose prompts a model node may share what it has computed for one.

A conversation has one name at one model node, so that each turn finds what was computed for those before. The name is
a keyed hash of how the conversation begins: two prompts of one name have the same beginning, which links them already,
and two conversations have nothing in common. Nobody else can make the name, so nobody can find out by timing what was
asked. The key is this client's, and turns.
"""

from hashlib import blake2b

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.wire.prompt import SESSION_BYTES, Prompt

KEY_BYTES = 32
KEY_LIFETIME_S = 3600.0
BEGINNING_CHARACTERS = 1024
"""So much of a plain text is taken for the beginning that later ones go on from."""


class SessionNames:
    """The names of one client's sessions."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._key = b""
        self._turns_at = float("-inf")

    def name(self, prompt: Prompt, node: NodeId, now: float) -> bytes:
        """The session of a prompt at a model node: SESSION_BYTES."""
        if now >= self._turns_at:
            self._key, self._turns_at = self._entropy(KEY_BYTES), now + KEY_LIFETIME_S
        digest = blake2b(key=self._key, digest_size=SESSION_BYTES)
        for part in (node, prompt.model.encode(), *_beginning(prompt)):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()


def _beginning(prompt: Prompt) -> list[bytes]:
    """All turns up to the first of the user, or the first characters of a text."""
    if prompt.text is not None:
        return [prompt.text[:BEGINNING_CHARACTERS].encode()]
    parts: list[bytes] = []
    for turn in prompt.messages:
        parts += [turn.role.encode(), turn.content.encode()]
        if turn.role == "user":
            break
    return parts
