"""Factors inside vLLM, by its own plug-in interfaces: no fork, no patch.

Heads act where vLLM unembeds, in a logits layer of ours that takes the place of its own (`layer`); which row of the
batch wants which exponents is learnt from its logits processors' interface (`rows`). Requests carry names, exponents
and hashes (`orders`), worker processes read the factors from stores themselves (`reading`). `engine` puts this behind
the server's interface. Nothing here imports vLLM before it is needed: this package can be imported without it.
"""
