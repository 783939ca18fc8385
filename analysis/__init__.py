"""Rows of trials in, verdicts with their uncertainty out; knows no framework and no model."""
