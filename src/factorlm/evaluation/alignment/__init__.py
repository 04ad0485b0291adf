"""Preference alignment as a factor: one reward, four ways of using it, and what each costs in divergence."""
