"""`clove models list|pull|show|rm`."""

from typing import Annotated

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import note, print_facts, print_json, print_table
from node.errors import NodeError

models_app = typer.Typer(help="The models on this machine.", no_args_is_help=True, rich_markup_mode=None)
_Name = Annotated[str, typer.Argument(help="Alias or model id.")]


@models_app.command("list")
def list_models(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the models that are stored here, and those that can be pulled by name."""
    from node.engine.models import ModelStore
    from node.engine.sources import CATALOGUE
    from node.home import Home

    stored = ModelStore(Home.locate(home).models_dir).list()
    here = {record.alias for record in stored}
    rows: list[tuple[str, str, int, str, int | None]] = [
        (record.alias, "stored", record.manifest.size, str(record.model_id), record.manifest.context_tokens)
        for record in stored
    ]
    rows += [
        (s.alias, "can be pulled", s.stored_bytes, s.model_id, None) for s in CATALOGUE if s.alias not in here
    ]
    columns = ("alias", "state", "bytes", "model_id", "context_tokens")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_table(("alias", "state", "size", "model id"), [(a, s, _megabytes(b), i) for a, s, b, i, _ in rows])


@models_app.command("pull")
def pull_model(
    source: Annotated[str, typer.Argument(help="A known name, hf:owner/name, a folder, or a .gguf file.")],
    base: Annotated[
        str | None, typer.Option(help="Of a LoRA adapter: the stored model that it changes.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Its name here, in place of the source's.")] = None,
    home: HomeOption = None,
) -> None:
    """Fetch a model or an adapter, convert it, and keep it for this machine's nodes."""
    from node.home import Home
    from node.model_pull import pull_with_progress

    record = pull_with_progress(Home.locate(home).models_dir, source, alias=alias, base=base)
    note(f"{record.alias} is stored: {record.model_id}, {_megabytes(record.manifest.size)}")


@models_app.command("show")
def show_model(name: _Name, *, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a stored model, after reading and checking every byte of it."""
    from node.engine.errors import EngineError
    from node.engine.models import ModelStore
    from node.home import Home

    try:
        record = ModelStore(Home.locate(home).models_dir).check(name)
    except EngineError as error:
        raise NodeError(str(error), f"fetch it: clove models pull {name}") from None
    manifest = record.manifest
    facts = {
        "alias": manifest.alias,
        "model_id": str(manifest.model_id),
        "source": manifest.source,
        "architecture": manifest.architecture,
        "context_tokens": manifest.context_tokens,
        "bytes": manifest.size,
        "base": None if manifest.base is None else str(manifest.base.model_id),
        "folder": str(record.folder),
        "files": {file.name: file.size for file in manifest.files},
    }
    if as_json:
        print_json(facts)
        return
    files = ", ".join(f"{file.name} ({_megabytes(file.size)})" for file in manifest.files)
    print_facts([*((key, value) for key, value in facts.items() if key != "files"), ("files", files)])


@models_app.command("rm")
def remove_model(name: _Name, home: HomeOption = None) -> None:
    """Delete a stored model."""
    from node.engine.errors import EngineError
    from node.engine.models import ModelStore
    from node.home import Home

    try:
        ModelStore(Home.locate(home).models_dir).remove(name)
    except EngineError as error:
        raise NodeError(str(error)) from None
    note(f"{name} is gone")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
