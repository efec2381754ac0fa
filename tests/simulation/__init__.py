"""Rolls of simulated fleets on a virtual clock, with the real workflows and steps."""
