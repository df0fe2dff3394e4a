"""Loading and describing models, prompts and pictures: for commands, lab and integrations."""
