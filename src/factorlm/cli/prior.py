"""factorlm prior: learn a distribution over models, draw from it, update it by evidence, tilt it, show it."""

from __future__ import annotations

import typer

from factorlm.cli import prior_fit, prior_sample, prior_show, prior_update

app = typer.Typer(no_args_is_help=True)
app.command("fit")(prior_fit.fit)
app.command("sample")(prior_sample.sample)
app.command("posterior")(prior_update.posterior)
app.command("filter")(prior_update.filter_)
app.command("tilt")(prior_update.tilt)
app.command("show")(prior_show.show)
