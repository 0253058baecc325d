"""What `clove verify` tells people of a verdict."""

from node.cli.verify import part_facts, verdict_line
from verify.verdict import Finding, Part, Reason, Verdict

ALICE = bytes(range(32))


def told(*parts):
    return [text for _, text in part_facts(Verdict((), None, parts=parts))]


def test_an_answer_of_one_node_has_no_parts_to_tell_of():
    assert told() == []


def test_each_part_says_who_signed_it_and_with_what():
    assert told(Part(1, 20, ALICE, "checkpoint"), Part(21, 40, ALICE, "receipt", 0)) == [
        "tokens 1 to 20 signed by 000102030405 (checkpoint)",
        "tokens 21 to 40 signed by 000102030405 (receipt)",
    ]


def test_a_part_that_nobody_signed_says_whose_it_is_as_far_as_that_is_known():
    assert told(Part(1, 20, ALICE, None), Part(21, 22, None, None)) == [
        "tokens 1 to 20 signed by nobody, from 000102030405",
        "tokens 21 to 22 signed by nobody, from an earlier node",
    ]


def test_a_wrong_part_says_how_wrong_it_is():
    (text,) = told(Part(1, 20, ALICE, "checkpoint", 7))
    assert text.endswith("(checkpoint), 7 with a margin over the bar")


def test_the_line_says_accepted_rejected_with_why_or_unproven():
    assert verdict_line(Verdict((), None)).startswith("accepted")
    assert verdict_line(Verdict((), None, replayable=False)).startswith("unproven")
    line = verdict_line(
        Verdict((Reason(Finding.NONCE, "another one"), Reason(Finding.TEXT, "differs")), None)
    )
    assert line == "rejected: nonce: another one; text: differs"
