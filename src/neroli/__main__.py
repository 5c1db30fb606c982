"""``python -m neroli``."""

from neroli.cli import main

main()
