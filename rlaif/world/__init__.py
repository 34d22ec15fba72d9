"""The practice world: a small synthetic chat world with known truth, and small language models that live in it.

    english.yaml   everything that can be said       chat.py        prompts and replies with latent attributes
    families.yaml  what principles are about         oracle.py      the truth, read from the text alone
    principles.py  a grammar of principles           annotators.py  simulated people, with planted faults

It makes the quick start run offline with real networks, and it is how every meter is proved: plant a bias, check that
it is found. Nothing outside this package knows of it.
"""
