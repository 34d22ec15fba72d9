"""The card of a trained model: everything that made it, by name and hash, as the README.md of its folder.

Equal runs write equal cards: no date, and of paths the last part alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.store import RunFolder, write_text

CARD = "README.md"
USE_OF_REWARDS = """
## Use

`rlaif reward score FOLDER --file FILE`, or in Python, for turns that end with the assistant's:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokens = (kind.from_pretrained("FOLDER") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
text = tokens.apply_chat_template(turns, tokenize=False).rstrip()  # it ends with the end of the turn
ids = tokens(text, add_special_tokens=False, return_tensors="pt")
reward = model(**ids).logits[0, 0].item() * model.config.rlaif_gain + model.config.rlaif_bias
```
"""


def write_model_card(
    run: RunFolder,
    folder: Path,
    *,
    name: str,
    method: str,
    options: Mapping[str, Any],
    seed: int,
    learnt: str,
    account: str,
    rewards: Sequence[str] = (),
    rewarded: Sequence[str] = (),
    read: Collection[str] = (),
    reward_model: bool = False,
    cares: Sequence[str] = (),
) -> None:
    """``learnt``: the noun that it was trained on; ``account``: what became of its rows, in words; ``rewards``: the stages
    of the reward models that it learnt from; ``rewarded``: by what its responses were rewarded, in words; ``read``: the run's inputs that
    had a part in it; ``reward_model``: whether it is one; ``cares``: what was said of its training that must be read beside it."""
    from rlaif.models.local import weights_hash

    manifest = run.manifest
    labellers: Counter[str] = Counter()
    if learnt == "preferences":
        for row in run.read("provenance"):
            labellers.update(row.labellers)
    models = "\n".join(
        f"| {role} | `{Path(facts['name']).name}` | `{facts['sha256']}` |"
        for role, facts in sorted(manifest["models"].items())
    ) + "".join(f"\n| {stage} | of this run | `{weights_hash(run.path / stage)}` |" for stage in rewards)
    files = "\n".join(
        f"| {file['kind']} | {file['name']} | `{file['sha256']}` |"
        for file in sorted(manifest["files"], key=lambda file: (file["kind"], file["name"], file["sha256"]))
    )
    inputs = "\n".join(
        f"| input | {Path(source['source']).name} | `{source['sha256']}` |"
        for source in manifest["inputs"]
        if source["source"] in read
    )
    packages = ", ".join(f"{key} {value}" for key, value in sorted(manifest["environment"].items()))
    caveats = "".join(f"\n> {line}\n" for line in (*manifest["caveats"], *cares))
    by = ", ".join(f"{who} ({count:,})" for who, count in sorted(labellers.items())) or "nobody: no labels were read"
    told = f"Its responses were rewarded by {', '.join(rewarded)}." if rewarded else f"Labels by {by}."
    text = f"""---
library_name: transformers
tags: [rlaif, {method}]
---

# {name}

Trained by `{method}` with rlaif on {account}. {told}
{caveats}
| | |
| --- | --- |
| weights and configuration, SHA-256 | `{weights_hash(folder)}` |
| {learnt}, digest of the rows in order | `{run.content(learnt)}` |
| seed | {seed} |
| software | {packages} |

## Models

| role | model | SHA-256 of everything that decides its replies |
| --- | --- | --- |
{models}

## Files

| kind | name | SHA-256 |
| --- | --- | --- |
{files}
{inputs}

## Options

```json
{json.dumps(options, indent=2, sort_keys=True, ensure_ascii=False)}
```
"""
    write_text(folder / CARD, text + (USE_OF_REWARDS if reward_model else ""))
