"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Home folder; default: CLOVE_HOME, else your data folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Model; default: the first one served.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Most tokens of the answer.")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", "-t", min=0, max=2, help="0 is the likeliest token always.")
]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Sample from the likeliest tokens only.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", min=1, max=64, help="How many candidates.")]
RepetitionOption = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.5, max=2, help="Over 1: what was said becomes less likely."),
]
MinTokensOption = Annotated[
    int | None, typer.Option("--min-tokens", min=0, help="Least tokens before the answer may end.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="End the answer at this text.")]
CacheOption = Annotated[
    Literal["none", "session", "public"] | None,
    typer.Option(
        "--cache",
        help="With whom a model node may share what it computes: nobody, this conversation, or everybody.",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option("--system", "-s", help="A system message before the prompt.")
]
