"""Distributed engines: compositions on vLLM, and corpora scored on Ray."""
