"""What the second bundled model is made of, and how it was trained: native sizes, clips, pairs."""
