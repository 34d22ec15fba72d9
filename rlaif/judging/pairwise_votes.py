"""Self-consistency: the same question sampled several times, and the share of votes for each reply.

Wang et al. 2023 (2203.11171) take the majority of sampled answers. Here p is the share of the votes that could be read,
a tie counting one half for either side. Without log-probabilities that is how p is had at all: at temperature 1, from a
reply that is the verdict alone, a vote falls on an option with the probability that the log-probabilities give it.

With ``early_stop`` votes are asked in waves, each the least number that could settle which reply has more of them, until
the votes left cannot change that. The sign of p - 1/2 is then what all votes would have given. p itself is the share
of the votes cast, and farther from 1/2 on average than the unbiased share of all of them: three votes of five that
agree end at 1. Where p itself is used (soft labels, calibration) rather than which reply won, set ``early_stop: false``.

A vote that cannot be read, or that the provider refuses, is not cast for anyone. Where fewer than ``minimum_readable`` of
those asked are left the showing has no verdict: it is refused where most of the missing votes were, else unreadable. A
call that failed fails the showing, retryable if any of the failures is: the other votes are in the ledger, so that
asking again costs only what is missing, and a label never depends on which calls happened to get through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import Field

from rlaif.errors import CallError, CallRefused, ConfigError
from rlaif.judging import Ask, ProtocolContext, Showing, Verdict
from rlaif.judging.pairwise_text import PairwiseText
from rlaif.models.gateway import gather_all

ROUNDING = 1e-9

Vote = Verdict | CallError


class PairwiseVotes(PairwiseText):
    class Options(PairwiseText.Options):
        votes: int = Field(default=5, ge=1)
        early_stop: bool = True
        minimum_readable: float = Field(default=0.5, ge=0, le=1)  # of the votes asked

    options: Options

    def __init__(self, options: Options, context: ProtocolContext) -> None:
        super().__init__(options, context)
        self.questions = options.votes
        if context.sampling.temperature == 0:
            raise ConfigError(
                f"{context.where}: sampling.temperature is 0, so that all votes would be one: set it above 0, for "
                "instance sampling: {temperature: 1.0}."
            )

    async def judge(self, showing: Showing, ask: Ask) -> Verdict:
        votes: list[Vote] = []
        while wave := self._still_to_ask(votes):
            indices = range(len(votes), len(votes) + wave)
            votes += await gather_all(self._vote(showing, ask, index) for index in indices)
            _need_no_failure(votes)
        return self._verdict(votes)

    async def _vote(self, showing: Showing, ask: Ask, index: int) -> Vote:
        try:
            return self.read(await ask(self.question(showing, index)))
        except CallError as error:
            return error

    def _still_to_ask(self, votes: Sequence[Vote]) -> int:
        """The size of the next wave; 0 where nothing more needs to be known."""
        left = self.options.votes - len(votes)
        if not self.options.early_stop or left == 0:
            return left
        read = _readable(votes)
        lead = int(abs(sum(first - second for first, second in read)))
        if lead > left and self._enough(len(read), len(votes)):
            return 0
        if not self._enough(len(read) + left, self.options.votes):
            return 0
        return max(1, (left - lead) // 2 + 1)

    def _enough(self, readable: int, asked: int) -> bool:
        return readable >= self.options.minimum_readable * asked - ROUNDING

    def _verdict(self, votes: Sequence[Vote]) -> Verdict:
        read = _readable(votes)
        share = len(read) / len(votes)
        if not read or not self._enough(len(read), len(votes)):
            refusals = [vote for vote in votes if isinstance(vote, CallRefused)]
            if 2 * len(refusals) > len(votes) - len(read):
                raise refusals[0]
            reasons = Counter(vote.reason for vote in votes if isinstance(vote, Verdict) and vote.p is None)
            return Verdict(option_mass=share, reason=f"too few votes could be read: {reasons.most_common(1)[0][0]}")
        p = tuple(sum(vote[place] for vote in read) / len(read) for place in (0, 1))
        p_tie = sum(vote == (0.5, 0.5) for vote in read) / len(read) if self.options.tie else None
        return Verdict(p=p, p_tie=p_tie, probabilistic=len(read) > 1, option_mass=share)


def _readable(votes: Iterable[Vote]) -> list[tuple[float, ...]]:
    return [vote.p for vote in votes if isinstance(vote, Verdict) and vote.p is not None]


def _need_no_failure(votes: Iterable[Vote]) -> None:
    """Raises the failure of a call, one that may pass before others. A refusal is none: it is a vote of its own kind."""
    failed = [vote for vote in votes if isinstance(vote, CallError) and not isinstance(vote, CallRefused)]
    if failed:
        raise max(failed, key=lambda error: error.retryable)
