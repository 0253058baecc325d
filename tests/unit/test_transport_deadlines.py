"""One alarm for all machines of a node."""

import trio

from overlay.transport.deadlines import Deadlines


class Clockwork:
    """Wants to be woken at each of its times, in turn."""

    def __init__(self, *times):
        self.times = list(times)
        self.woken = []

    def next_deadline(self):
        return self.times[0] if self.times else None

    def wake(self, now):
        self.woken.append(now)
        self.times.pop(0)


async def test_every_machine_is_woken_when_it_asked(autojump_clock, nursery):
    deadlines = Deadlines()
    await nursery.start(deadlines.serve)
    first, second = Clockwork(1.0, 2.0, 5.0), Clockwork(1.5, 2.0)
    deadlines.add(first, first.wake)
    deadlines.add(second, second.wake)
    await trio.sleep_until(10.0)
    assert (first.woken, second.woken) == ([1.0, 2.0, 5.0], [1.5, 2.0])


async def test_an_earlier_deadline_moves_the_alarm(autojump_clock, nursery):
    deadlines = Deadlines()
    await nursery.start(deadlines.serve)
    machine = Clockwork(100.0)
    deadlines.add(machine, machine.wake)
    await trio.sleep_until(1.0)
    machine.times.insert(0, 2.0)
    deadlines.touched(machine)
    await trio.sleep_until(3.0)
    assert machine.woken == [2.0]


async def test_a_later_deadline_does_not_wake_early(autojump_clock, nursery):
    deadlines = Deadlines()
    await nursery.start(deadlines.serve)
    machine = Clockwork(1.0)
    deadlines.add(machine, machine.wake)
    machine.times[0] = 4.0
    await trio.sleep_until(5.0)
    assert machine.woken == [4.0]


async def test_a_machine_that_was_removed_is_not_woken(autojump_clock, nursery):
    deadlines = Deadlines()
    await nursery.start(deadlines.serve)
    machine = Clockwork(1.0)
    deadlines.add(machine, machine.wake)
    deadlines.remove(machine)
    deadlines.touched(machine)
    await trio.sleep_until(2.0)
    assert machine.woken == []
    assert deadlines.machines == ()
