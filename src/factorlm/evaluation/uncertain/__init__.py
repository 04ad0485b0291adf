"""Measuring uncertainty: graded questions, estimators against errors, self-knowledge, temperature, recalibration."""
