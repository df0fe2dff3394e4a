"""Families whose contract runs in `make families` and `make compat`, not in `make test`.

`tests/adapters` holds one family for each trait of a decoder; here are those that share the traits of
one of these, so that their contract proves their paths and grids rather than lightkv's hooks.

A file takes classes that the oldest supported transformers lacks from `releases.needs_class`: it is then
skipped there, and the table of `make compat` says why.
"""
