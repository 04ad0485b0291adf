"""Markers of certainty and doubt in prompts and answers: what they do to accuracy, and where that comes from."""
