"""`python -m coat_core.cli` is `coat`."""

from coat_core.cli import main

main()
