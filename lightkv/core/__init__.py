"""The algorithm framework: knows no model and no method."""
