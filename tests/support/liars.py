"""Members that claim what is not so, each in a way of its own: called with the node, its engine and prompts to come."""

from tests.support.members import public_chain


async def claim_every_prefix(node, engine, prompts):
    for prompt in prompts:
        engine.cache.tell(await public_chain(node, prompt))


async def claim_no_load(_node, engine, _prompts):
    engine.gate.set(attended_s=0.0, prefill_token_s=2.0**-14)


async def claim_absurd_speed(_node, engine, _prompts):
    engine.gate.set(attended_s=0.0, prefill_token_s=2.0**-30)


LIES = [claim_every_prefix, claim_no_load, claim_absurd_speed]
