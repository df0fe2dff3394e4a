"""Model families: what all Hugging Face decoders share, then one file each."""
