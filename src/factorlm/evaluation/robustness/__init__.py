"""Slot filling under noise: utterances, spans, a trained tagger and a prompted model."""
