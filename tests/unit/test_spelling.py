"""The bytes of single tokens, in vocabularies of both kinds."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from node.engine.spelling import TokenSpelling, byte_characters


def spelling(tokens, decoder):
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, []))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<|end|>"])
    return TokenSpelling(tokenizer)


SENTENCEPIECE = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])


@given(st.binary(min_size=1, max_size=8))
def test_any_bytes_can_be_spelt_by_a_byte_level_vocabulary(data):
    characters = {byte: character for character, byte in byte_characters().items()}
    token = "".join(characters[byte] for byte in data)
    assert spelling([token], decoders.ByteLevel()).bytes_of(0) == data


def test_a_byte_level_vocabulary_decodes_to_the_same_text():
    tokenizer = Tokenizer(BPE({"\u0120caf\u00c3\u00a9": 0}, []))
    tokenizer.decoder = decoders.ByteLevel()
    assert TokenSpelling(tokenizer).bytes_of(0).decode() == tokenizer.decode([0]) == " caf\u00e9"


def test_sentencepiece_spaces_and_lone_bytes_are_read():
    found = spelling(["\u2581caf\u00e9", "<0xE2>", "plain"], SENTENCEPIECE)
    assert [found.bytes_of(token) for token in range(3)] == [" caf\u00e9".encode(), b"\xe2", b"plain"]


def test_a_special_token_is_its_name_and_an_unknown_id_nothing():
    for decoder in (decoders.ByteLevel(), SENTENCEPIECE):
        found = spelling(["a"], decoder)
        assert found.bytes_of(1) == b"<|end|>"
        assert found.bytes_of(99) == b""
