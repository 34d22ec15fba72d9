"""A judge certified: asked about pairs that people labelled and about planted probes, and what came of it in a card.

``certify.py`` walks the judging runs and writes the card; ``rlaif/canaries.py`` makes the probes, ``judged.py`` sees a run as the
verdicts of one judge, ``card.py`` makes the figures and says them, ``page.py`` draws them, ``gate.py`` lets recipes require
a card.
"""
