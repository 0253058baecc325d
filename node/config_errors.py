"""What pydantic found wrong with a configuration, as sentences: source, key, value, what is allowed."""

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def explain(error: ValidationError, root: type[BaseModel], sources: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per fault. sources: where values came from, the strongest first."""
    lines = []
    for fault in error.errors(include_url=False):
        location = [str(part) for part in fault["loc"]]
        path = _known_path(location, root)
        where = _source(path, sources)
        lines.append(f"{where}: {_describe(fault, path, root)}")
    return "\n".join(lines)


def allowed_values(field: FieldInfo) -> str:
    """`1 to 8`, `one of strict, local`, `true or false`, `text`, or the type's plain name."""
    choices = _literals(field.annotation)
    if choices:
        return "one of " + ", ".join(choices)
    if field.annotation is bool:
        return "true or false"
    low = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, annotated_types.Le)), None)
    if low is not None and high is not None:
        return f"{low} to {high}"
    shortest = next((m.min_length for m in field.metadata if isinstance(m, annotated_types.MinLen)), None)
    longest = next((m.max_length for m in field.metadata if isinstance(m, annotated_types.MaxLen)), None)
    if longest is not None:
        return f"{shortest or 0} to {longest} characters"
    if typing.get_origin(field.annotation) is tuple:
        return "a list of texts"
    if typing.get_origin(field.annotation) is dict:
        return "pairs, ALIAS = NAME"
    if field.annotation is str:
        return "text"
    return getattr(field.annotation, "__name__", str(field.annotation))


def _describe(fault: Mapping[str, Any], path: list[str], root: type[BaseModel]) -> str:
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(path, root)}"
    field = _field(path, root)
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if field is None or fault["type"] == "value_error":
        return f"{key}: {reason}"
    value = "" if field.repr is False else f" = {fault['input']!r}"
    return f"{key}{value}: allowed is {allowed_values(field)}"


def _nearest(path: list[str], root: type[BaseModel]) -> str:
    """`; did you mean privacy.hops (1 to 3)?`: the likest key of the section, or of any, or what there is."""
    sections = [name for name, _ in _sections(root)]
    if path[0] not in sections:
        close_sections = difflib.get_close_matches(path[0], sections, 1, 0.5)
        if close_sections:
            return f"; did you mean {'.'.join([close_sections[0], *path[1:]])}?"
    every = {f"{name}.{key}": field for name, section in _sections(root) for key, field in section.items()}
    wanted = ".".join(path)
    siblings = [key for key in every if key.startswith(path[0] + ".")]
    close = difflib.get_close_matches(wanted, siblings, 1, 0.6) or difflib.get_close_matches(
        wanted, every, 1, 0.6
    )
    same_key = [key for key in every if len(path) > 1 and key.split(".")[1] == path[1]]
    found = close or same_key[:1]
    if found:
        return f"; did you mean {found[0]} ({allowed_values(every[found[0]])})?"
    known = [key.split(".")[1] for key in siblings] or sections
    return f"; known here: {', '.join(known)}"


def _sections(root: type[BaseModel]) -> list[tuple[str, dict[str, FieldInfo]]]:
    found = []
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found.append((name, field.annotation.model_fields))
    return found


def _field(path: list[str], root: type[BaseModel]) -> FieldInfo | None:
    section = dict(_sections(root)).get(path[0], {}) if path else {}
    return section.get(path[1]) if len(path) > 1 else None


def _known_path(location: list[str], root: type[BaseModel]) -> list[str]:
    """Section and key: pydantic's location goes further down, to list items and union members."""
    return location[:2] if location else [next(iter(root.model_fields))]


def _source(path: list[str], sources: Mapping[str, Mapping[str, Any]]) -> str:
    for name, table in sources.items():
        section = table.get(path[0])
        if not isinstance(section, Mapping):
            if path[0] in table:
                return name
            continue
        if len(path) == 1 or path[1] in section:
            return f"environment, CLOVE_{'__'.join(path).upper()}" if name == "environment" else name
    return "configuration"


def _literals(annotation: object) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [text for part in typing.get_args(annotation) for text in _literals(part)]
    return []
