"""Judges that others recorded: published verdicts, or raw replies read again, against labels.

``replay.py`` reads items and judgements, ``readers.py`` reads raw replies, ``card.py`` makes figures of them,
``differences.py`` sets two readers side by side, ``winrate.py`` does the same for one model against a baseline. Rows
count one by one: two items with the same pair stay two.
"""
