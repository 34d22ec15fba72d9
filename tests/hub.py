"""A stand-in for the Hugging Face Hub: the part of its HTTP API that an upload uses, over real HTTP on loopback.

It keeps repositories in memory, with their commits, and answers what the Hub answers: who may write, what is there, which
files go through large-file storage, and why something was refused.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from aiohttp import web

TOKEN = "hf_aTokenForTestsAlone"
READ_ONLY = "hf_aTokenThatMayOnlyRead"
OWNER = "ann"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.parquet filter=lfs\n"})
    commits: list[dict[str, Any]] = field(default_factory=list)  # summary, and the paths that were written and deleted

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps([len(self.commits), sorted(self.files)]).encode()).hexdigest()


@dataclass
class Hub:
    """What the server holds, and the tokens and calls it saw."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    seen: list[tuple[str, str]] = field(default_factory=list)  # method and path of each call
    tokens: set[str] = field(default_factory=set)
    url: str = ""
    large_files_fail: bool = False

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=2**30)
        app.add_routes(
            [
                web.get("/api/datasets/{owner}/{name}", self._info),
                web.get("/api/datasets/{owner}/{name}/revision/{revision}", self._info),
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._validate),
                web.post("/api/datasets/{owner}/{name}/preupload/{revision}", self._preupload),
                web.post("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch),
                web.put("/storage/{oid}", self._store),
                web.post("/api/datasets/{owner}/{name}/commit/{revision}", self._commit),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        if request.path.startswith("/storage/"):  # as the Hub's: the address itself is the permission
            return await handler(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens.add(token)
        if token not in (TOKEN, READ_ONLY):
            return refused(401, "Invalid credentials in Authorization header")
        if request.method != "GET" and token == READ_ONLY:
            return refused(403, "you must use a write token")
        return await handler(request)

    def _of(self, request: web.Request) -> Repository:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if name not in self.repositories:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        return self.repositories[name]

    async def _info(self, request: web.Request) -> web.Response:
        found = self._of(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        siblings = [{"rfilename": path} for path in sorted(found.files)]
        return web.json_response({"id": name, "sha": found.sha, "private": found.private, "siblings": siblings})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["type"] == "dataset"
        name = f"{body['organization']}/{body['name']}"
        if body["organization"] != OWNER:
            return refused(
                403, f'You don\'t have the rights to create a dataset under the namespace "{body["organization"]}"'
            )
        if name in self.repositories:
            return refused(409, "You already created this dataset repo")
        self.repositories[name] = Repository(private=body.get("visibility") == "private")
        return web.json_response({"url": f"{self.url}/datasets/{name}", "name": name})

    async def _validate(self, request: web.Request) -> web.Response:
        body = await request.json()
        header = yaml.safe_load(body["content"].split("---\n")[1])
        wrong = (
            []
            if header["license"] in ("cc-by-4.0", "mit")
            else [{"message": '"license" must be one of [cc-by-4.0, mit]'}]
        )
        return web.json_response({"errors": wrong, "warnings": []}, status=400 if wrong else 200)

    async def _preupload(self, request: web.Request) -> web.Response:
        held = self._of(request).files
        files = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith(".parquet")
            data = held.get(file["path"])
            oid = None if data is None else hashlib.sha256(data).hexdigest() if large else blob(data)
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return web.json_response({"files": files})

    async def _batch(self, request: web.Request) -> web.Response:
        self._of(request)
        objects: list[dict[str, Any]] = []
        for asked in (await request.json())["objects"]:
            href = f"{self.url}/storage/{asked['oid']}"
            actions = {} if asked["oid"] in self.stored else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _store(self, request: web.Request) -> web.Response:
        data = await request.read()
        if self.large_files_fail:
            return refused(400, "the storage is not in the mood")
        assert hashlib.sha256(data).hexdigest() == request.match_info["oid"]
        self.stored[request.match_info["oid"]] = data
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        found = self._of(request)
        lines = [json.loads(line) for line in (await request.read()).splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, found.sha):
            return refused(412, "A commit has happened since. Please refresh and try again.")
        written, deleted = [], []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del found.files[value["path"]]
                deleted.append(value["path"])
                continue
            large = line["key"] == "lfsFile"
            found.files[value["path"]] = self.stored[value["oid"]] if large else base64.b64decode(value["content"])
            written.append(value["path"])
        found.commits.append({"summary": header["summary"], "written": sorted(written), "deleted": deleted})
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        url = f"{self.url}/datasets/{name}/commit/{found.sha}"
        return web.json_response({"success": True, "commitOid": found.sha, "commitUrl": url, "hookOutput": ""})


def blob(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status, headers={"X-Error-Message": message})


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The stand-in on a free port of this machine, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    runner = web.AppRunner(hub.app())
    try:
        wait(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        wait(site.start())
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield hub
    finally:
        wait(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
