"""Options that several commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[str, typer.Argument(help="Name of the factor.")]
Replace = Annotated[bool, typer.Option("--replace", help="Supersede a factor of that name.")]
