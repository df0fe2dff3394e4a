"""The blocks of docs/evidence.md, made from what is kept of the study; `evidence.py` puts them in."""
