"""One file for one model family: nothing but answers."""
