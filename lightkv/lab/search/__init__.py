"""Tuning: the smallest retention that loses less than a user allows."""
