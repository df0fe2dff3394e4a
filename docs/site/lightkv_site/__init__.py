"""What `make docs` adds to the pages of docs/: presets, the reference, and files that pages link to."""
