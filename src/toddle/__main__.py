"""`python -m toddle` is the command `toddle`."""

from toddle.cli import main

main()
