"""The directory: what it lists, and a digest that tells two of them apart."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.directory import Directory
from overlay.wire.descriptor import Role, digest_of
from tests.support.descriptors import MODEL_ID, fixed_id, model_node, network, relay


def test_directory_lists_relays_and_model_nodes_by_role():
    directory = network(3, models=2)
    assert {found.node_id for found in directory.relays()} == {fixed_id(number) for number in range(3)}
    assert len(directory.model_nodes()) == 2
    assert len(directory) == 5


def test_node_in_both_roles_is_in_both_lists():
    both = replace(model_node(1), roles=frozenset({Role.MODEL, Role.RELAY}), onion_keys=relay(1).onion_keys)
    directory = Directory([both])
    assert directory.relays() == directory.model_nodes() == (both,)


def test_node_without_an_address_is_known_but_not_listed():
    directory = Directory([replace(relay(1), addresses=())])
    assert directory.relays() == ()
    assert directory.find(fixed_id(1)) is not None


def test_models_are_found_by_id_and_alias():
    directory = network(1, models=2)
    assert directory.serving("smollm2-135m") == directory.serving(MODEL_ID) == directory.model_nodes()
    assert directory.serving("gpt-7") == ()


def test_find_knows_only_what_is_there():
    directory = network(2)
    assert directory.find(fixed_id(1)) == relay(1)
    assert directory.find(fixed_id(77)) is None
    assert fixed_id(1) in directory
    assert fixed_id(77) not in directory


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), unique_by=lambda entry: entry[0]),
    st.randoms(),
)
def test_digest_depends_on_the_set_and_not_on_its_order(entries, shuffler):
    listed = [(fixed_id(number), seq) for number, seq in entries]
    mixed = list(listed)
    shuffler.shuffle(mixed)
    assert digest_of(listed) == digest_of(mixed)
    assert Directory(replace(relay(number), seq=seq) for number, seq in entries).digest == digest_of(listed)


def test_digest_changes_with_a_sequence_number_and_with_a_node():
    digests = {
        Directory(nodes).digest
        for nodes in ([], [relay(1)], [replace(relay(1), seq=2)], [relay(1), relay(2)])
    }
    assert len(digests) == 4
