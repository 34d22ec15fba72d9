"""Imported once by the fork server: everything that is slow to import."""

import torch
import transformers.trainer

import rlaif.checking
import rlaif.policy.dpo
import rlaif.report
import rlaif.reward  # noqa: F401

torch.set_num_threads(1)
