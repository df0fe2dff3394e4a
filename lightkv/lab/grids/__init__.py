"""Ablation grids: from a YAML file to a results file."""
