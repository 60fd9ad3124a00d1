"""A local stand-in for the hub's HTTP interface: repositories are folders, and requests are counted."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

KINDS = {"datasets": "dataset", "models": "model"}


@dataclass
class Hub:
    """Repositories by kind and id, as in `hub.datasets["owner/name"] = folder`."""

    url: str = ""
    datasets: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    branches: dict[tuple[str, str], Path] = field(default_factory=dict)  # (id, branch or tag) other than main
    requests: Counter[str] = field(default_factory=Counter)  # by path

    def folder(self, kind: str, name: str, revision: str) -> Path | None:
        """The files of a revision, which is main, a branch, a tag, or the hash that `commit` gives."""
        main = (self.datasets if kind == "datasets" else self.models).get(name)
        known = {"main": main} | {branch: path for (owner, branch), path in self.branches.items() if owner == name}
        known |= {commit(path): path for path in known.values() if path}
        return known.get(revision)


def commit(folder: Path) -> str:
    """A hash of all files."""
    digest = hashlib.sha1()
    for path in _files(folder):
        digest.update(path.encode() + (folder / path).read_bytes())
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests[path] += 1
        api = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?/?", path)
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+|refs/[^/]+/[^/]+)/(.+)", path)
        if not (api or file):
            return self.send(404, {}, b"{}", body)
        kind, name = (api[1], api[2]) if api else (file[1] or "models", file[2])  # type: ignore[index]
        folder = self.hub.folder(kind, name, (api[4] if api else file[3]) or "main")  # type: ignore[index]
        if name in self.hub.gated and not self.headers.get("Authorization"):
            return self.send(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"}, b"{}", body)
        if folder is None:
            known = self.hub.folder(kind, name, "main")
            return self.send(404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b"{}", body)
        if api:
            return self.send(200, {}, json.dumps(_described(kind, name, folder, api[3] == "tree")).encode(), body)
        wanted = folder / file[4]  # type: ignore[index]
        if not wanted.is_file():
            return self.send(404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        content = wanted.read_bytes()
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit(folder)}
        return self.send(200, tag, content, body)

    def send(self, status: int, headers: dict[str, str], content: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _described(kind: str, name: str, folder: Path, tree: bool) -> object:
    files = _files(folder)
    if tree:
        return [
            {
                "type": "file",
                "path": path,
                "size": (folder / path).stat().st_size,
                "oid": hashlib.sha1(path.encode()).hexdigest(),
            }
            for path in files
        ]
    about = {
        "id": name,
        "sha": commit(folder),
        "private": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "gated": False,
    }
    return (
        about | {"siblings": [{"rfilename": path} for path in files]} | ({"modelId": name} if kind == "models" else {})
    )


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub in a thread of this process."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub, which reads its settings when it is imported, ask this hub and keep files in `cache`."""
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
