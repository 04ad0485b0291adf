"""Facts written into the weights of a language model, kept beside it as small changes that can be taken back."""
