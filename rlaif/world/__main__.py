"""``python -m rlaif.world build`` is ``rlaif world build``."""

import sys

from rlaif.cli import main

sys.argv[1:1] = ["world"]
main()
