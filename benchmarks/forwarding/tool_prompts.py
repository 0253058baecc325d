"""Prompts of agents: a system message that lists a set of tools, and what a user asks of them. Pure, but for `read`.

The sets are those of ToolBench's queries (lines of {"query", "tools": [{"name", "description", "parameters"}]}), or
made up from a seed. Which set a prompt has goes by Zipf's law. Users of one set ask for parts of its query, so that
prompts differ after the list.
"""

import json
import random  # noqa: TID251 - the same workload in every run, no secrets
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ZIPF = 1.1
LIST_TOKENS, QUERY_TOKENS = 416, 40
"""With the template's tokens and a salt, under 512."""
_HEADER = "You may call these tools. Answer with the calls that the request needs."
_MOST_DESCRIPTION = 400
_WORDS = (
    "account address airport album alert article balance booking budget calendar category city contact country coupon "
    "currency customer date device distance driver email event exchange file flight forecast game history hotel image "
    "invoice item language league location map market message movie number order page payment phone photo player price "
    "product profile query rate recipe region report result review route schedule score season station status stock "
    "story symbol team ticket time title track trend user vehicle video weather week"
)

Count = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True, slots=True)
class ToolSet:
    """A list of tools as the system message has it, and the sentences of a query that asks for them."""

    listing: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt. gap: until it comes after the one before, in mean gaps. tools: the number of its set."""

    number: int
    gap: float
    tools: int
    system: str
    user: str


def read_sets(path: Path, most: int, count: Count) -> list[ToolSet]:
    """The first sets of a file, each once. Raises ValueError where there are none."""
    found: dict[str, ToolSet] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            made = ToolSet(list_tools(row["tools"], count), _sentences(row["query"]))
            found.setdefault(made.listing, made)
            if len(found) >= most:
                break
    if not found:
        raise ValueError(f"{path} has no queries")
    return list(found.values())


def make_sets(number: int, count: Count, seed: int) -> list[ToolSet]:
    """Sets that are made up."""
    draw = random.Random(seed)  # noqa: S311

    def words(least: int, most: int) -> str:
        return " ".join(draw.choices(_WORDS.split(), k=draw.randint(least, most)))

    def tool() -> dict[str, Any]:
        names = {words(1, 2).replace(" ", "_") for _ in range(draw.randint(0, 4))}
        parameters = {"properties": {name: {"type": "string"} for name in sorted(names)}}
        return {"name": words(2, 4).replace(" ", "_"), "description": words(8, 40), "parameters": parameters}

    def query() -> tuple[str, ...]:
        return tuple(f"Find the {words(4, 12)}." for _ in range(draw.randint(2, 5)))

    return [
        ToolSet(list_tools([tool() for _ in range(draw.randint(2, 11))], count), query())
        for _ in range(number)
    ]


def list_tools(tools: Sequence[Mapping[str, Any]], count: Count) -> str:
    """A line for each tool, as many as fit LIST_TOKENS."""
    listing = _HEADER
    for tool in tools:
        properties = tool["parameters"].get("properties", {})
        takes = ", ".join(f"{name} ({each.get('type', 'string')})" for name, each in properties.items())
        line = f"\n- {tool['name']}: {tool['description'][:_MOST_DESCRIPTION]} Takes: {takes or 'nothing'}."
        if count(listing + line) > LIST_TOKENS:
            break
        listing += line
    return listing


def _sentences(query: str) -> tuple[str, ...]:
    return tuple(re.split(r"(?<=[.?!])\s+", query.strip()))


def make_asks(sets: Sequence[ToolSet], count_asks: int, count: Count, seed: int) -> list[Ask]:
    """Prompts in the order in which they come, at random (a Poisson process)."""
    draw = random.Random(seed)  # noqa: S311
    weights = [1 / (rank + 1) ** ZIPF for rank in range(len(sets))]
    found = []
    for ask in range(count_asks):
        tools = draw.choices(range(len(sets)), weights)[0]
        sentences = list(sets[tools].sentences)
        draw.shuffle(sentences)
        user = f"Request {ask:03}."  # nobody asks twice for the same
        for sentence in sentences[: draw.randint(1, len(sentences))]:
            if count(f"{user} {sentence}") <= QUERY_TOKENS:
                user = f"{user} {sentence}"
        found.append(Ask(ask, draw.expovariate(1.0), tools, sets[tools].listing, user))
    return found
