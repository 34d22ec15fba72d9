"""``python -m rlaif``, and ``accelerate launch -m rlaif`` for training in several processes."""

from rlaif.cli import main

main()
