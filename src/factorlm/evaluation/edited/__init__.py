"""What writing a fact into a model does to it, and what factors do instead."""
