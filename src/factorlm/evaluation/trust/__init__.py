"""The overview of trust: which of its dimensions are measured by which suite, and what the records say."""
