"""A constitution as tested code: read it with care, try each principle, change it and see which labels change.

    reading.py       a file with the line of each principle
    wording.py       what can be known of a principle from its words alone
    lint.py          findings: what is wrong or missing, where, and what would do
    trying.py        each principle alone on its own examples, by a judge
    runs.py          a labelled run seen by principle; its judges opened again
    attribution.py   which principle decided each label
    ablation.py      each principle left out in turn
    difference.py    one constitution in place of another
    importing.py     principles out of other people's files

Nothing here changes a run: what is made is printed, or written where it is asked for.
"""
