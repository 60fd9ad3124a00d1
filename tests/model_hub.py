"""A stand-in for the hub's HTTP interface, as far as models are read from it: revisions, gated and unknown models."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants as constants

GATED = "gated/model"  # needs the header of TOKEN
TOKEN = "hf_stand_in"


class ModelHub:
    """Repositories by name, each a dictionary from revision to folder. A revision's commit follows from its name."""

    def __init__(self, repositories: dict[str, dict[str, Path]]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def commit(name: str, revision: str) -> str:
        return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        """Send what the hub sends: model info, a file list, a file with its commit and hash, or an error code."""
        path = unquote(urlsplit(request.path).path)
        self.requests.append(path)
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        owner, name, *rest = words[2:] if api else words
        repository = f"{owner}/{name}"
        revisions = self.repositories.get(repository)
        if revisions is None:
            return self.refuse(request, 404, "RepoNotFound")
        known = {self.commit(repository, r): folder for r, folder in revisions.items()}
        asked = rest[1] if len(rest) > 1 else "main"
        commit = asked if asked in known else self.commit(repository, asked)
        if commit not in known:
            return self.refuse(request, 404, "RevisionNotFound")
        folder = known[commit]
        if api and rest[:1] == ["tree"]:
            content = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": self.hash(p)}
                for p in sorted(folder.iterdir())
            ]
            return self.send(request, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
        if api:
            files = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
            content = {"id": repository, "modelId": repository, "sha": commit, "siblings": files, "private": False}
            return self.send(request, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
        if repository == GATED and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(request, 401, "GatedRepo")
        file = folder / "/".join(rest[2:])
        if not file.is_file():
            return self.refuse(request, 404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.hash(file)}"', "Accept-Ranges": "bytes"}
        return self.send(request, file.read_bytes(), headers, body)

    @staticmethod
    def hash(file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def send(self, request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], body: bool) -> None:
        request.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(content)

    def refuse(
        self, request: BaseHTTPRequestHandler, status: int, code: str, more: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for key, value in (
            {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"} | (more or {})
        ).items():
            request.send_header(key, value)
        request.end_headers()


@contextmanager
def serving(repositories: dict[str, dict[str, Path]], cache: Path, monkeypatch):
    """The stand-in, which huggingface_hub takes for the hub, with an empty cache."""
    from plaudit.models import hub

    stand_in = ModelHub(repositories)
    thread = threading.Thread(target=stand_in.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    hub._fetched.cache_clear()
    try:
        yield stand_in
    finally:
        stand_in.server.shutdown()
        stand_in.server.server_close()
        hub._fetched.cache_clear()
