"""Swap studies on real labels of people, with recorded judges as the AI: labels, and reward models learnt from them.

    python benchmarks/real_labels.py DATA FOLDER [--only pandalm] [--labels-alone]

DATA holds public label sets converted to the shapes of docs/certify.md: ``pandalm/`` (three people and two recorded judges),
``llmbar/`` (objective labels, eleven recorded judges), ``hh_harmless/`` (crowd workers' pairs), ``xstest_responses/`` (two people,
GPT-4 and a string match on two models' answers to the same requests). FOLDER gets a study's files, run folders and page for each.
The reward models begin as a small language model of the HH texts, trained here without labels in some minutes: what so small a
network learns of quality from some hundred pairs is little, and the studies then say what they could have seen.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FOLLOWS = {
    "1_full_compliance": 2,
    "3_partial_refusal": 1,
    "2_full_refusal": 0,
}  # how far an answer does what it was asked
RULES = {
    name: {"labels": {"source": "judges", "options": {"judges": [name]}}} for name in ("longest", "random", "first")
}
REWARD = {
    "base": "base",
    "options": {"learning_rate": 3.0e-4, "epochs": 3, "batch_prompts": 16, "max_tokens": 384},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=sorted(STUDIES))
    parser.add_argument("--labels-alone", action="store_true", help="no reward models: seconds instead of minutes")
    args = parser.parse_args()
    data, folder = args.data.resolve(), args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base"
    if not args.labels_alone and not (base / "config.json").exists():
        pairs = str(data / "hh_harmless" / "pairs.jsonl.gz")
        subprocess.run(
            [sys.executable, str(HERE / "small_model.py"), "chat", "--pairs", pairs, "--out", str(base)], check=True
        )
    for name in [args.only] if args.only else STUDIES:
        recipe, study = STUDIES[name](data, folder / name)
        if not args.labels_alone:
            recipe |= {"models": {"base": str(base)}, "held_out": 0.3, "reward_model": REWARD}
        write(folder / name / "recipe.yaml", recipe)
        seeds = [0] if args.labels_alone else [0, 1, 2]
        write(folder / name / "study.yaml", {"recipe": "recipe.yaml", "seeds": seeds, "at_once": 2, **study})
        out = "labels" if args.labels_alone else "study"
        print(f"\n{name}: {study['description']}", flush=True)
        command = [sys.executable, "-m", "rlaif", "compare", "study.yaml", "--out", out]
        subprocess.run(command, cwd=folder / name, check=True, stderr=subprocess.DEVNULL)


def write(path: Path, what: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(what, sort_keys=False), encoding="utf-8")


def recorded(file: Path, judge: str, method: str | None = None) -> dict[str, Any]:
    asked = {"file": str(file), "judge": judge, **({"method": method} if method else {})}
    return {"labels": {"source": "recorded", "options": asked}}


def pandalm(data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    said = data / "pandalm" / "judgements.jsonl.gz"
    arms = {
        "people": "human",
        "gpt-35": recorded(said, "gpt-3.5-turbo"),
        "pandalm-7b": recorded(said, "pandalm-7b"),
        **RULES,
    }
    recipe = {
        "pairs": str(data / "pandalm" / "items.jsonl.gz"),
        "labels": "human",
        "preferences": {"panel": "majority"},
    }
    return recipe, {"description": "Three people on PandaLM's pairs, and two recorded judges.", "arms": arms}


def llmbar(data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    said = data / "llmbar" / "judgements.jsonl.gz"
    judges = {"gpt-4": "GPT-4", "chatgpt": "ChatGPT", "llama-2": "LLaMA2"}
    arms = {"objective": "human", **{name: recorded(said, judge, "Vanilla") for name, judge in judges.items()}, **RULES}
    recipe = {"pairs": str(data / "llmbar" / "items.jsonl.gz"), "labels": "human"}
    return recipe, {"description": "LLMBar's objective labels, and recorded judges in both orders.", "arms": arms}


def hh(data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    recipe = {"pairs": str(data / "hh_harmless" / "pairs.jsonl.gz"), "labels": "human"}
    return recipe, {
        "description": "Crowd workers on harmlessness, and rules that read nothing.",
        "arms": {"people": "human", **RULES},
    }


def xstest(data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two answers to an unsafe request the one that refuses more is better, and to a safe one the one that does more of it."""
    items, verdicts = folder / "items.jsonl", folder / "verdicts.jsonl"
    rows = list(_xstest_pairs(data / "xstest_responses" / "mistral.jsonl.gz"))
    folder.mkdir(parents=True, exist_ok=True)
    items.write_text("".join(json.dumps(item) + "\n" for item, _ in rows), encoding="utf-8")
    verdicts.write_text("".join(json.dumps(row) + "\n" for _, said in rows for row in said), encoding="utf-8")
    arms = {
        "people": "human",
        "gpt-4": recorded(verdicts, "gpt4"),
        "string-match": recorded(verdicts, "strmatch"),
        **RULES,
    }
    recipe = {"pairs": str(items), "labels": "human"}
    return recipe, {"description": "Two people, GPT-4 and a string match on whether answers comply.", "arms": arms}


def _xstest_pairs(path: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    for name, pair in by_prompt.items():
        a, b = sorted(pair, key=lambda row: row["model"])
        people = {who: _better(a, b, who) for who in ("human_1", "human_2")}
        item = {
            "id": name, "prompt": a["prompt"], "response_a": a["completion"], "response_b": b["completion"],
            "label": _better(a, b, "human_final"), "human_labels": people, "subset": a["type"],
        }  # fmt: skip
        said = [
            {
                "item_id": name,
                "judge": judge,
                "method": "classes",
                "order": None,
                "choice": _better(a, b, f"{judge}_label"),
            }
            for judge in ("gpt4", "strmatch")
        ]
        yield item, said


def _better(a: dict[str, Any], b: dict[str, Any], column: str) -> str | None:
    """The better of two answers by how far each complies; None where a label is none of the three."""
    worth = [FOLLOWS.get(row[column]) for row in (a, b)]
    if None in worth:
        return None
    one, other = worth if not a["unsafe"] else worth[::-1]
    return "tie" if one == other else "a" if one > other else "b"  # type: ignore[operator]


STUDIES = {"pandalm": pandalm, "llmbar": llmbar, "hh": hh, "xstest": xstest}


if __name__ == "__main__":
    main()
