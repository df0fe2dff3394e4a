"""How the bundled models were trained. Not in the wheel."""
