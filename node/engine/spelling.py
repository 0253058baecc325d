"""The bytes of single tokens, which a text decoded from them doesn't show: a token may end inside a code point.

Vocabularies spell bytes in one of two ways. Byte-level ones have a printable character for each of the 256 bytes
(GPT-2's table); those made by sentencepiece write a space as U+2581 and a byte that is no text as <0xNN>.
"""

import re

from tokenizers import Tokenizer

from overlay.wire.answer_codec import MAX_TOKEN_BYTES

_SPACE = "\u2581"
_LONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenSpelling:
    """Which bytes each token of a vocabulary stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = frozenset(tokenizer.get_added_tokens_decoder())
        self._byte_of = byte_characters() if "ByteLevel" in repr(tokenizer.decoder) else None

    def bytes_of(self, token_id: int) -> bytes:
        """At most MAX_TOKEN_BYTES, which no vocabulary's tokens exceed; nothing for an id without a token."""
        token = self._tokenizer.id_to_token(token_id) or ""
        return self._spell(token_id, token)[:MAX_TOKEN_BYTES]

    def _spell(self, token_id: int, token: str) -> bytes:
        if token_id in self._added:
            return token.encode()
        if self._byte_of is not None and all(character in self._byte_of for character in token):
            return bytes(self._byte_of[character] for character in token)
        if (lone := _LONE_BYTE.fullmatch(token)) is not None:
            return bytes.fromhex(lone[1])
        return token.replace(_SPACE, " ").encode()


def byte_characters() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters are themselves, the other bytes are U+0100 and on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(0x100 + at): byte for at, byte in enumerate(others)}
