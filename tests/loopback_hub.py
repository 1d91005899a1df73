"""A hub on the loopback interface: as much of its protocol as its clients speak, over files in memory."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files by path at one commit; `unserved` are listed but not there, `broken` are cut off once near their end."""

    files: dict[str, bytes]
    gated: bool = False
    unserved: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    @property
    def commit(self):
        return hashlib.sha1(b"".join(k.encode() + v for k, v in sorted(self.files.items()))).hexdigest()

    def row(self, path):
        oid = hashlib.sha1(self.files[path]).hexdigest()
        row = {"type": "file", "path": path, "size": len(self.files[path]), "oid": oid}
        if path.endswith((".safetensors", ".parquet")):
            digest = hashlib.sha256(self.files[path]).hexdigest()
            row["lfs"] = {"oid": digest, "size": row["size"], "pointerSize": 130}
        return row

    def folder(self, path):
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def folders(self):
        return {path.rpartition("/")[0] for path in self.files if "/" in path}


class LoopbackHub:
    """`repositories` by (models or datasets, id); `asked` are all requests as (method, path, range)."""

    def __init__(self, repositories):
        self.repositories = repositories
        self.asked = []

    @contextmanager
    def serving(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            def do_HEAD(self):
                hub.answer(self)

            def do_POST(self):
                hub.answer(self)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, request):
        url = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append((request.command, url.path, request.headers.get("Range")))
        path = unquote(url.path)
        if match := RESOLVE.fullmatch(path):
            self.resolve(request, match[1] or "models", *match.groups()[1:])
        elif match := API.fullmatch(path):
            self.api(request, parse_qs(url.query), body, *match.groups())
        else:
            send(request, 200 if path == "/" else 404)

    def find(self, request, kind, name, revision):
        """Return the repository; where there is none, or it has no such revision, say so and return None."""
        repository = self.repositories.get((kind, name))
        if repository is None:
            send(request, 401, error=("RepoNotFound", "Repository not found"))
        elif revision not in (None, "main", repository.commit):
            send(request, 404, error=("RevisionNotFound", f"Invalid rev id: {revision}"))
            return None
        return repository

    def api(self, request, query, body, kind, name, what, revision, path):
        repository = self.find(request, kind, name, revision)
        if repository is None:
            return
        if what == "tree":
            rows = [repository.row(p) for p in repository.files] + [repository.folder(p) for p in repository.folders()]
            below = f"{path}/" if path else ""
            deep = query.get("recursive", ["false"])[0].lower() == "true"
            rows = [r for r in rows if r["path"].startswith(below) and (deep or "/" not in r["path"][len(below) :])]
            if path and not rows:
                send(request, 404, error=("EntryNotFound", f"{path} does not exist"))
            else:
                send_json(request, rows)
        elif what == "paths-info":
            asked = parse_qs(body.decode()).get("paths", []) if body[:1] != b"{" else json.loads(body)["paths"]
            files = [repository.row(p) for p in asked if p in repository.files]
            send_json(request, files + [repository.folder(p) for p in asked if p in repository.folders()])
        else:
            gated = "manual" if repository.gated else False
            siblings = [{"rfilename": p} for p in repository.files]
            send_json(
                request,
                {"id": name, "sha": repository.commit, "siblings": siblings, "gated": gated, "private": False,
                 "tags": [], "downloads": 0, "lastModified": "2026-01-01T00:00:00.000Z"},
            )  # fmt: skip

    def resolve(self, request, kind, name, revision, path):
        repository = self.find(request, kind, name, revision)
        if repository is None:
            return
        if repository.gated:
            send(request, 403, error=("GatedRepo", f"Access to {name} is restricted"))
        elif path not in repository.files or path in repository.unserved:
            send(request, 404, {"X-Repo-Commit": repository.commit}, ("EntryNotFound", "Entry not found"))
        else:
            self.send_file(request, repository, path)

    def send_file(self, request, repository, path):
        content, row = repository.files[path], repository.row(path)
        digest = row["lfs"]["oid"] if "lfs" in row else row["oid"]
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content = content[first : last + 1]
        cut = path in repository.broken and request.command == "GET"
        repository.broken -= {path} if cut else set()
        send(request, 206 if asked else 200, headers, body=content, only=len(content) - 1 if cut else None)


def send(request, status, headers=None, error=None, body=b"", only=None):
    """Answer; with `only`, close the connection after that many bytes of the body."""
    request.send_response(status)
    for key, value in (headers or {}).items():
        request.send_header(key, value)
    if error:
        request.send_header("X-Error-Code", error[0])
        request.send_header("X-Error-Message", error[1])
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:only])
    if only is not None:
        request.close_connection = True


def send_json(request, value):
    send(request, 200, {"Content-Type": "application/json"}, body=json.dumps(value).encode())
