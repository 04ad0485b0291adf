"""factorlm index: memories made from texts, and what stands in them."""

from __future__ import annotations

import typer

from factorlm.cli import index_build, index_change, index_query, index_weigh

app = typer.Typer(no_args_is_help=True)
app.command("build")(index_build.build)
app.command("adopt")(index_build.adopt)
app.command("query")(index_query.query)
app.command("show")(index_query.show)
app.command("weigh")(index_weigh.weigh)
app.command("append")(index_change.append)
app.command("remove")(index_change.remove)
app.command("merge")(index_change.merge)
app.command("verify")(index_change.verify)
