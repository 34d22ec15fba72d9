"""AI feedback from prompts to a tuned policy.

Nothing heavy is imported here: ``rlaif --help`` and the start of a judging run stay fast.
"""

__version__ = "0.1.0"
