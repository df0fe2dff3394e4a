"""`python -m lightkv`: the command line, where the script `lightkv` is not on the path."""

from lightkv.cli import main

main()
