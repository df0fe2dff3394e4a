"""What the bundled models are made of, and how they were trained. Not in the wheel."""
