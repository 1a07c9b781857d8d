"""A Hub of one dataset on 127.0.0.1: the routes that huggingface_hub asks for, with the headers that it looks at."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class LocalHub:
    """Serves `files` (name -> bytes) as the dataset `name` at one commit; `requests` lists what was asked for."""

    def __init__(self, name, commit, files, card=None, citation=None):
        self.name, self.commit, self.files = name, commit, dict(files)
        self.card, self.citation = card or {}, citation
        self.requests = []
        self.broken_after = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def entry(self, name):
        content = self.files[name]
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def answer(self, method, target, body):
        """Return status, headers and content."""
        url = urlsplit(target)
        path = unquote(url.path)
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path in (api, *(f"{api}/revision/{revision}" for revision in ("main", self.commit))):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": self.name, "sha": self.commit, "cardData": self.card, "siblings": siblings, "tags": []}
            return 200, {}, json.dumps({**about, "citation": self.citation}).encode()
        found = re.fullmatch(rf"{re.escape(api)}/(tree|paths-info|revision)/([^/]+)(?:/(.*))?", path)
        if found and found[2] not in ("main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
        if found and found[1] == "tree":
            inside = f"{found[3]}/" if found[3] else ""
            return 200, {}, json.dumps(self.tree(inside, "recursive" in parse_qs(url.query))).encode()
        if found and found[1] == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            return 200, {}, json.dumps([self.entry(name) for name in asked if name in self.files]).encode()
        if path.startswith(files):
            return self.file(*path.removeprefix(files).split("/", 1))
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def file(self, revision, name=""):
        if revision not in ("main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}, b""
        headers = {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        return 200, headers, self.files[name]

    def tree(self, inside, recursive):
        entries, folders = [], set()
        for name in sorted(self.files):
            if name.startswith(inside):
                first, _, rest = name.removeprefix(inside).partition("/")
                if rest and first not in folders:
                    folders.add(first)
                    entries.append({"type": "directory", "path": inside + first, "size": 0, "oid": "0" * 40})
                if recursive or not rest:
                    entries.append(self.entry(name))
        return entries

    def handler(hub):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def respond(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
                status, headers, content = hub.answer(self.command, self.path, body)
                span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if status == 200 and span and self.command == "GET":
                    first, last = int(span[1]), int(span[2] or len(content) - 1)
                    last = min(last, len(content) - 1)
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                    status, content = 206, content[first : last + 1]
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = respond  # noqa: N815

        return Handler
