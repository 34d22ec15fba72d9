"""AI feedback from prompts to a tuned policy.

Nothing heavy is imported here: ``rlaif --help`` and the start of a judging run stay fast.
"""

import os

for _name, _value in (
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"),  # kernels of bfloat16 on a CPU, one for every shape
):
    os.environ.setdefault(_name, _value)  # libraries read them when they are imported

__version__ = "0.1.0"
