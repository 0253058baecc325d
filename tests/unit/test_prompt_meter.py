"""Prompts measured in the daemon: as many tokens and the same names as a worker finds, and no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from node.engine.block_manager import BLOCK_TOKENS, BlockManager, scope_of
from node.engine.errors import PromptRefusedError, UnsupportedModelError
from node.engine.prompt_meter import Measured, PromptMeter
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from tests.support.tiny_model import write_tokenizer

ROOT = Path(__file__).parents[2]
KEY = bytes(range(16))
PUBLIC = scope_of("public", b"")
HI = 4  # its id


@pytest.fixture
def meter(tmp_path):
    write_tokenizer(tmp_path)
    return PromptMeter(tmp_path)


def text_of(tokens):
    return Prompt(model="m", text=" ".join(["hi"] * tokens), sampler=SamplerSpec(), nonce=bytes(32))


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 0), (16, 0), (17, 1), (32, 1), (33, 2)])
async def test_full_blocks_before_the_last_token_are_named_as_a_pool_with_the_key_would(
    meter, tokens, blocks
):
    found = await meter.measure(text_of(tokens), key=KEY, scope=PUBLIC)
    assert found.tokens == tokens
    assert list(found.chain) == BlockManager(1, KEY).chain(PUBLIC, [HI] * blocks * BLOCK_TOKENS)
    assert len(found.chain) == blocks


async def test_once_loaded_it_needs_its_files_no_more(meter, tmp_path):
    await meter.load()
    (tmp_path / "tokenizer.json").unlink()
    assert (await meter.measure(text_of(3), key=KEY, scope=PUBLIC)).tokens == 3


async def test_a_prompt_that_shares_nothing_has_no_names(meter):
    assert await meter.measure(text_of(40), key=KEY, scope=None) == Measured(40, ())


async def test_names_are_those_of_one_key_and_one_scope(meter):
    scopes = [PUBLIC, scope_of("session", bytes(16)), scope_of("session", bytes(range(16)))]
    chains = [(await meter.measure(text_of(33), key=KEY, scope=scope)).chain for scope in scopes]
    chains.append((await meter.measure(text_of(33), key=bytes(16), scope=PUBLIC)).chain)
    assert len({name for chain in chains for name in chain}) == 8


async def test_what_the_tokenizer_refuses_is_refused(meter, tmp_path):
    with pytest.raises(PromptRefusedError, match="empty"):
        await meter.measure(text_of(0), key=KEY, scope=PUBLIC)
    chat = Prompt(model="m", messages=(ChatMessage("user", "hi"),), sampler=SamplerSpec(), nonce=bytes(32))
    with pytest.raises(PromptRefusedError, match="no chat template"):
        await meter.measure(chat, key=KEY, scope=PUBLIC)
    with pytest.raises(UnsupportedModelError):
        await PromptMeter(tmp_path / "none").measure(chat, key=KEY, scope=PUBLIC)
    with pytest.raises(UnsupportedModelError):
        await PromptMeter(tmp_path / "none").load()
    assert (await meter.measure(text_of(1), key=KEY, scope=PUBLIC)).tokens == 1


def test_it_needs_neither_torch_nor_transformers():
    code = (
        "import sys, node.engine.prompt_meter, node.engine.block_manager\n"
        "print(sorted({'torch', 'transformers', 'numba'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"
