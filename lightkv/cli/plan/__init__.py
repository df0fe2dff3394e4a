"""`lightkv plan`: what a schedule leaves and saves, counted without weights."""
