"""How late the loop is, told while it runs."""

import trio
import trio.testing

from node.loop_delay import watch_loop


async def test_a_loop_with_nothing_to_do_is_never_late(autojump_clock):
    seen = []
    with trio.move_on_after(10):
        await watch_loop(seen.append, 0.5)
    assert seen == [0.0] * len(seen)
    assert len(seen) >= 19


async def test_a_loop_that_was_held_up_is_late_by_what_was_left_of_it(mock_clock):
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, seen.append, 0.5)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.75)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [0.25]
