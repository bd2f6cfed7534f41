"""``python -m tollkeeper.command`` is the same as ``tollkeeper``."""

from tollkeeper.command import main

main()
