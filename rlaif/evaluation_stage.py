"""The stage of a road that measures its policies, on prompts that nothing was trained on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlaif.accounts import reward_stages
from rlaif.component import code_hash
from rlaif.config import PromptsSection
from rlaif.errors import DataError
from rlaif.evaluate import Evaluation
from rlaif.progress import Progress
from rlaif.prompts import ReadPrompts, prompt_rows
from rlaif.records import Exclusion, Prompt
from rlaif.rewards.trained import trained_rewards

if TYPE_CHECKING:
    from rlaif.pipeline import Road


@dataclass(frozen=True)
class EvaluationStage:
    """The last stage of a road that is walked."""

    road: Road

    async def run(self) -> None:
        from rlaif.training.trainer import Watch

        road = self.road
        section = road.pipeline.evaluation
        assert section
        prompts, account = self.prompts()
        self._say_looked_at(prompts)
        if not prompts:
            road.watcher.notice(self._nothing_to_measure(account))
        sampling = road.evaluation_sampling
        if road.pipeline.reward_model and road.reference_noun() and sampling != road.reference_sampling:
            road.watcher.notice(
                "evaluation.sampling is not how the samples were drawn that rewards are normalised on (reward_model.sampling, "
                "or responses.sampling): here an average answer of the start need not have reward 0."
            )
        signature = road.signature(
            "evaluation",
            section.model_dump(mode="json", exclude={"source"}),
            account,
            sampling.model_dump(mode="json"),
            road.pipeline.seed,
            [prompt.fingerprint() for prompt in prompts],
            [code_hash(part) for part in (*road.metrics, *road.methods.values())],
            road.models["policy"].identity.sha256,
            {name: road.state_signature(f"policies/{name}") or method.options.model_dump(mode="json")
             for name, method in road.methods.items()},
            *(road.state_signature(stage) for stage in reward_stages(road.pipeline) or ["reward_model"]),
            road.judges.signature() if road.judges else None,
        )  # fmt: skip
        if road.run_folder.begin("evaluation", signature, ["evaluation"]):
            return
        start = time.perf_counter()
        loop = asyncio.get_running_loop()

        def part(name: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(road.watcher.listen, Progress(name, done, total))

        evaluation = Evaluation(
            gateway=road.gateway,
            start=road.models["policy"],
            methods=road.methods,
            tuned=lambda name: self._tuned(name, part),
            reward_models=self._trained_rewards if road.pipeline.reward_model else None,
            judges=road.judges,
            judged=section.judged,
            metrics=road.metrics,
            counting=road.counting,
            watch=Watch(part=part),
            release=road.release,
            notice=road.watcher.notice,
        )
        await evaluation.run(prompts, sampling, road.evaluation_seed, road.folder / "evaluation", account)
        road.run_folder.finish("evaluation", "", time.perf_counter() - start)

    def prompts(self) -> tuple[list[Prompt], dict[str, Any]]:
        """Held-out prompts by keyed draw, at most as many as the recipe says; and the account of a source of their own,
        of which those that the run trained on are left out."""
        road = self.road
        section = road.pipeline.evaluation
        assert section
        outcomes: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        if road.measured is None:
            kept = [prompt for prompt in road.run_folder.read("prompts") if road.is_held_out(prompt.id)]
        else:
            kept = []
            trained = {p.id for p in road.run_folder.read("prompts") if not road.is_held_out(p.id)}
            for read in self._measured_rows(road.measured):
                if isinstance(read, Exclusion):
                    outcomes["duplicate" if "duplicate" in read.reason else "unusable"] += 1
                    reasons[read.reason] += 1
                elif read.id in trained:
                    outcomes["trained on"] += 1
                else:
                    kept.append(read)
        kept.sort(key=road.evaluation_order)
        used = kept[: section.prompts]
        if road.measured is None:
            return used, {}
        outcomes["not drawn"] = len(kept) - len(used)
        account = {
            "unit": "rows",
            "in": len(used) + outcomes.total(),
            "outcomes": {"used": len(used), **outcomes},
            "reasons": dict(sorted(reasons.items())),
        }
        return used, {"evaluation prompts": account}

    def _say_looked_at(self, used: list[Prompt]) -> None:
        """Where a judge looked on at prompts that are measured on, since there are not enough for both."""
        names = {prompt.id for prompt in used}
        for name, method in self.road.methods.items():
            told = self.road.run_folder.trained(f"policies/{name}") or {}
            if shared := len(names.intersection(told.get("looked_at", ()))):
                self.road.watcher.notice(
                    f"Careful: {name}: the judge {method.options.watch.judge} looked on at {shared:,} of the {len(used):,} prompts that it is "
                    "measured on: where it stopped the training, it may do better on them than on others. What would do: a larger held_out, "
                    "or fewer prompts to watch or to measure."
                )

    def _measured_rows(self, section: PromptsSection) -> Iterator[Prompt | Exclusion]:
        reader = ReadPrompts(section, "evaluation.source")
        try:
            yield from (reader.read(where, row) for where, row in prompt_rows(section))
        except DataError as error:
            raise DataError(f"evaluation.source: {error} Mend the file, or name another.") from error

    def _nothing_to_measure(self, account: dict[str, Any]) -> str:
        """Why no prompt is left to measure on, and what would do."""
        if self.road.measured is None:
            return "evaluation: no held-out prompts (held_out is 0, or too few prompts): nothing to measure."
        found = account["evaluation prompts"]["outcomes"]
        left = ", ".join(f"{count} {outcome}" for outcome, count in found.items() if count) or "no rows"
        return (
            f"evaluation: of {self.road.measured.source} no prompt is left ({left}): nothing to measure. Name a file with prompts "
            "that the run does not train on: evaluation.source."
        )

    def _tuned(self, name: str, part: Callable[[str, int, int], None]) -> Any:
        from rlaif.models.local import LocalModel

        road = self.road
        start = road.models["policy"]
        options = start.options.model_copy(update={"adapter": None})
        model = LocalModel(
            str(road.folder / "policies" / name), options, where=f"policy {name}", notice=road.watcher.notice
        )
        model.identify(lambda read, total: part(f"reading {name}, MB", read // 10**6, total // 10**6))
        return model

    def _trained_rewards(self) -> list[Any]:
        road = self.road
        section = road.pipeline.reward_model
        assert section
        folders = [road.folder / stage for stage in reward_stages(road.pipeline)]
        return trained_rewards(folders, road.models[section.base].options, road.watcher.notice)
