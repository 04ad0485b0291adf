"""Whether a model treats groups alike: a planted bias that must be found again, and terms of identity in data."""
