"""Structural stand-ins for modelling code that ships with checkpoints and cannot be had here."""
