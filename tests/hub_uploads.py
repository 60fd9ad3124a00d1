"""The stand-in of hub.py, which also takes uploads: repositories are made, files come by commit or by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hub import Hub, _Handler, commit

TOKEN = "hf_writer"  # may write to repositories of OWNER
READER = "hf_reader"  # is known, but may not write
OWNER = "me"


@dataclass
class Uploads(Hub):
    """A hub whose repositories are written to folders below `root`."""

    root: Path = Path()
    private: set[str] = field(default_factory=set)
    licenses: dict[str, str] = field(default_factory=dict)  # of models, by id
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    commits: list[str] = field(default_factory=list)  # summaries
    breaks: str = ""  # a request whose path contains this is answered with 500


class _Writer(_Handler):
    hub: Uploads

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if (api := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)) and api[1] in {
            *self.hub.models,
            *self.hub.licenses,
        }:
            about = {
                "id": api[1],
                "sha": commit(self.hub.models[api[1]]) if api[1] in self.hub.models else "0" * 40,
                "private": api[1] in self.hub.private,
                "siblings": [],
                "tags": [],
            }
            about |= {"cardData": {"license": self.hub.licenses[api[1]]}} if api[1] in self.hub.licenses else {}
            return self.send(200, {}, json.dumps(about).encode(), body)
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/tree/[^/]+/.+", path):  # models here have no such folders
            return self.send(404, {"X-Error-Code": "EntryNotFound"}, b"{}", body)
        return super().answer(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def chunks(self) -> Iterator[bytes]:
        """The content of a request whose length is not known at its beginning."""
        while length := int(self.rfile.readline(), 16):
            yield self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()

    def do_PUT(self) -> None:
        content = b"".join(self.chunks()) if self.headers.get("Transfer-Encoding") else self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large[oid] = content
        self.send(200, {}, b"", True)

    def do_POST(self) -> None:
        content = self.body()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests[path] += 1
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READER):
            return self.say(401, {"error": "Invalid credentials"})
        if self.hub.breaks and self.hub.breaks in path:
            return self.say(500, {"error": "Internal error"})
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(content), token)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(content)["objects"])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            take = self.preupload if match[2] == "preupload" else self.commit
            return take(match[1], content)
        return self.say(404, {})

    def say(self, status: int, content: object) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(content).encode(), True)

    def create(self, wanted: dict, token: str) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if token == READER or wanted["organization"] != OWNER:
            return self.say(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.hub.models:
            return self.say(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.models[name] = self.hub.root / name
        self.hub.models[name].mkdir(parents=True)
        self.hub.private |= {name} if wanted.get("visibility") == "private" else set()
        return self.say(200, {"url": f"{self.hub.url}/{name}"})

    def preupload(self, name: str, content: bytes) -> None:
        """Weights go by LFS, and everything else in the commit, as the hub decides for models."""
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith("safetensors") else "regular",
             "shouldIgnore": False, "oid": None}
            for f in json.loads(content)["files"]
        ]  # fmt: skip
        self.say(200, {"files": files})

    def batch(self, objects: list[dict]) -> None:
        actions = [
            o
            | (
                {}
                if o["oid"] in self.hub.large
                else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
            )
            for o in objects
        ]
        self.say(200, {"transfer": "basic", "objects": actions})

    def commit(self, name: str, content: bytes) -> None:
        folder = self.hub.models[name]
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
                continue
            path = folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            large = line["key"] == "lfsFile"
            path.write_bytes(self.hub.large[value["oid"]] if large else base64.b64decode(value["content"]))
        self.say(200, {"commitUrl": f"{self.hub.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True})


@contextmanager
def serve_uploads(root: Path) -> Iterator[Uploads]:
    """A hub that takes uploads, in a thread of this process."""
    hub = Uploads(root=root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Writer", (_Writer,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
