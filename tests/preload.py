"""Imported once by the fork server, with everything that is slow to import, so that its children start at once."""

import importlib

import torch

for name in ("transformers.trainer", "rlaif.checking", "rlaif.policy.dpo", "rlaif.report", "rlaif.reward"):
    importlib.import_module(name)
torch.set_num_threads(1)
