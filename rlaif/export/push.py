"""A dataset folder to the Hugging Face Hub, in one commit, through ``huggingface_hub``.

The token is read from HF_TOKEN and from nowhere else; HF_ENDPOINT names another Hub. After a push the dataset there holds
what the folder holds: files of an earlier push that are gone from the folder go with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif import __version__
from rlaif.errors import RlaifError, UserError
from rlaif.export.dataset import licence_of
from rlaif.export.public import public_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
CARD = {"README.md", "card.json", "recipe.json"}  # what a dataset folder of ours has
OURS = ("data/", "config/")  # folders that a push answers for, down to files that are to go


def push(folder: Path, name: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Upload, and return lines saying what was done. Raises UserError where a person can mend it, else RlaifError.

    ``dry_run``: only look at the folder, and say what would be uploaded; nobody is asked and no token is needed.
    """
    files = _files(folder)
    if not NAME.fullmatch(name):
        raise UserError(f"push: {name}: a dataset of the Hub is named OWNER/NAME.")
    if licence_of((folder / "README.md").read_text(encoding="utf-8")) is None:
        raise UserError(
            f"{folder / 'README.md'}: no licence. Say under which others may use it: export with --license, for instance "
            "cc-by-4.0, or write it in the header (license: …)."
        )
    if dry_run:
        size = sum((folder / path).stat().st_size for path in files) / 1e6
        return [
            f"{folder} to {name}, for {'its owner' if private else 'everyone'}: {len(files):,} files, {size:,.2f} MB",
            *files,
        ]
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("push: HF_TOKEN is not set. Set it to a token of the Hub with write access.")
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or None
    api = HfApi(endpoint=endpoint, token=token, library_name="rlaif", library_version=__version__)
    with _told(api.endpoint, name, token):
        return _upload(api, folder, files, name, private)


def _files(folder: Path) -> list[str]:
    """The folder's files by their paths in it. Raises UserError where it is none that was exported."""
    if not folder.is_dir() or any(not (folder / each).is_file() for each in CARD):
        raise UserError(f"{folder}: not a dataset folder. `rlaif export RUN --to FOLDER/ --license …` writes one.")
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def _upload(api: HfApi, folder: Path, files: list[str], name: str, private: bool) -> list[str]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = _there(api, name, private)
    if there is None:
        api.create_repo(name, repo_type="dataset", private=private or None)  # None: as the owner has set it
        there = _there(api, name, private)
    if there is None:
        raise RlaifError(f"push: {name} was made, and {api.endpoint} does not show it to this token.")
    held = {file.rfilename for file in there.siblings or ()}
    gone = sorted(path for path in held - set(files) if path.startswith(OURS))
    operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in gone]
    operations += [CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in files]
    commit = api.create_commit(
        name,
        operations,
        repo_type="dataset",
        commit_message=f"Upload by rlaif {__version__}",
        parent_commit=there.sha,
    )
    url = f"{api.endpoint}/datasets/{name}"
    if commit.oid == there.sha:
        return [f"{url}: nothing has changed since the last push."]
    lines = [f"{url}: {len(files):,} files, commit {commit.oid[:12]}"]
    return lines + ([f"removed there: {', '.join(gone)}"] if gone else [])


def _there(api: HfApi, name: str, private: bool) -> Any | None:
    """The dataset as it is on the Hub; None where there is none. Raises UserError where it is not to be touched."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(name)
    except RepositoryNotFoundError:  # or a token that the Hub does not know, which making it will say
        return None
    held = {file.rfilename for file in info.siblings or ()} - {".gitattributes"}
    if held and not held >= CARD:
        raise UserError(f"push: {name} exists already and was not pushed by rlaif. Choose another name, or empty it.")
    if private and not info.private:
        raise UserError(f"push: {name} is there, and everyone may read it. Make it private on the Hub first.")
    return info


@contextmanager
def _told(endpoint: str, name: str, token: str) -> Iterator[None]:
    """What the Hub, or the way to it, says against a push becomes one line, in which the token does not stand."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(error, endpoint, name, token) from None
    except (HTTPError, OSError) as error:
        line = _one_line(error, token)
        raise RlaifError(f"push: {endpoint} cannot be reached ({line}). Nothing was changed; run it again.") from None
    except RuntimeError as error:  # of the upload of large files, whose cause is the Hub's or the connection's
        line = _one_line(error.__cause__ or error, token)
        raise RlaifError(f"push: the upload broke off ({line}). Nothing was committed; run it again.") from None
    except ValueError as error:  # of huggingface_hub: the card's header, or an answer that is not the Hub's
        raise UserError(f"push: {_one_line(error, token)}") from None


def _refused(error: Any, endpoint: str, name: str, token: str) -> RlaifError:
    owner = name.partition("/")[0]
    status = error.response.status_code
    if status == 401:
        return UserError(
            f"push: {endpoint} does not accept the token in HF_TOKEN (401). Make a new one with write access."
        )
    if status == 403:
        return UserError(
            f"push: the token in HF_TOKEN may not write to {name} (403): it needs write access to the datasets of {owner}."
        )
    if status == 404:
        return UserError(f"push: {endpoint} knows no owner {owner}, or no {name} that this token may see (404).")
    if status in (409, 412):
        return UserError(
            f"push: {name} was made or changed by someone else meanwhile, or is there and this token may not see it "
            f"({status}). Run it again, or choose another name."
        )
    said = error.server_message or _one_line(error, token)
    return RlaifError(f"push: {endpoint} answered {status}: {_one_line(said, token)}")


def _one_line(error: Any, token: str) -> str:
    return public_text(" ".join(str(error).split()).replace(token, "(token)"))[:300]
