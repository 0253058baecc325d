"""Deadlines: nothing is ever looked at too late, and what is cancelled leaves nothing behind."""

from hypothesis import given
from hypothesis import strategies as st

from overlay.protocol.deadlines import Deadlines

steps = st.lists(
    st.tuples(st.sampled_from(["schedule", "cancel", "pop"]), st.integers(0, 5), st.integers(0, 50)),
    max_size=80,
)


@given(steps)
def test_each_key_is_due_at_the_earliest_time_asked_for(steps):
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    for action, key, at in steps:
        if action == "schedule":
            deadlines.schedule(key, at)
            model[key] = min(at, model.get(key, at))
        elif action == "cancel":
            deadlines.cancel(key)
            model.pop(key, None)
        else:
            due = {each for each, when in model.items() if when <= at}
            popped = deadlines.pop_due(at)
            assert set(popped) == due
            assert len(popped) == len(due)
            model = {each: when for each, when in model.items() if each not in due}
        assert deadlines.next_deadline() == min(model.values(), default=None)


def test_many_cancelled_deadlines_do_not_pile_up():
    deadlines: Deadlines[int] = Deadlines()
    for key in range(10_000):
        deadlines.schedule(key, 1e9 + key)
        deadlines.cancel(key)
    deadlines.schedule(-1, 2e9)
    assert len(deadlines._heap) < 200
    assert deadlines.next_deadline() == 2e9
