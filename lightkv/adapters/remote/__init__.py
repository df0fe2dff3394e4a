"""What modelling code of the transformers 4 era shares, which ships with old checkpoints."""
