"""The playground: two strategies side by side on one picture, in a page that a local server serves."""
