"""Entry point of vLLM's general plug-ins: called in every process, before models are built."""

from __future__ import annotations

import logging

from factorlm.errors import FactorlmError


def register() -> None:
    """Put our logits layer in its place; where that cannot be, say so and let vLLM run without factors.

    The layer does nothing until the logits processor `factorlm.engines.vllm.rows:FactorRows` is asked for, and that
    raises what is only logged here, so nobody who runs vLLM without factors is stopped by this.
    """
    try:
        from factorlm.engines.vllm.versions import require_validated

        require_validated()
        from factorlm.engines.vllm import layer

        layer.register()
    except FactorlmError as error:
        logging.getLogger("vllm.factorlm").warning("factorlm: %s", error)
