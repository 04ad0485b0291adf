"""What memories are worth: likelihood, written texts, retrieval, imitation, drafts."""
