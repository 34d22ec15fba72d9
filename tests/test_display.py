"""What a person reads of a run where there is no terminal: a line now and then."""

from __future__ import annotations

import time

import pytest

from rlaif.display import Display
from rlaif.progress import Progress


def test_a_stage_that_begins_anew_waits_before_it_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    with Display() as display:
        for begins in (0.0, 100.0):
            for clock in (begins, begins + 1.0, begins + 4.0, begins + 5.0):
                display.listen(Progress("reading", int(clock - begins), 8))
            display.listen(Progress("reading", 0, None, finished=True))
    said = "reading: 4 of 8, 1.0/s, 4 s left,\n"
    assert capsys.readouterr().err == said * 2
