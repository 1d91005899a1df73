"""A hub on the loopback interface: as much of its protocol as its clients speak, over files in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
WRITTEN = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
LARGE = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files by path at one commit; `unserved` are listed but not there, `broken` are cut off once near their end."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
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
    """`repositories` by (models or datasets, id); `asked` are all requests as (method, path, range).

    Whoever has the `token`, if there is one, may make repositories and write into them. `lost` are files that it drops.
    """

    def __init__(self, repositories, token=None):
        self.repositories = repositories
        self.asked = []
        self.token = token
        self.large = {}  # what was uploaded, by its SHA-256
        self.lost = set()

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

            def do_PUT(self):
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
        if request.command in ("POST", "PUT") and self.writes(request, path, body):
            return
        if match := RESOLVE.fullmatch(path):
            self.resolve(request, match[1] or "models", *match.groups()[1:])
        elif match := API.fullmatch(path):
            self.api(request, parse_qs(url.query), body, *match.groups())
        else:
            send(request, 200 if path == "/" else 404)

    def writes(self, request, path, body):
        """Answer a request that writes; return whether it was one."""
        here = f"http://127.0.0.1:{request.server.server_port}"
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            send(request, 200)
            return True
        if path == "/api/validate-yaml":
            send_json(request, {"errors": [], "warnings": []})
            return True
        match = WRITTEN.fullmatch(path) or LARGE.fullmatch(path)
        if not match and path != "/api/repos/create":
            return False
        if self.token is None or request.headers.get("Authorization") != f"Bearer {self.token}":
            send(request, 401, error=("Unauthorized", "Invalid username or password."))
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[("models", name)] = Repository({}, private=asked["visibility"] == "private")
            send_json(request, {"url": f"{here}/{name}"})
        elif path.endswith("/batch"):
            objects = json.loads(body)["objects"]
            rows = [{**o, "actions": {"upload": {"href": f"{here}/large/{o['oid']}"}}} for o in objects]
            send_json(request, {"transfer": "basic", "objects": rows})
        elif match[2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            rows = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(names, modes, strict=True)]
            send_json(request, {"files": rows})
        else:
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
            sha = self.repositories[("models", match[1])].commit
            send_json(request, {"commitUrl": f"{here}/{match[1]}/commit/{sha}", "commitOid": sha})
        return True

    def commit(self, name, lines):
        """Put what a commit names into a repository."""
        files = self.repositories[("models", name)].files
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        for lost in self.lost & files.keys():
            files[lost] = files[lost][:-1]

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
                {"id": name, "sha": repository.commit, "siblings": siblings, "gated": gated,
                 "private": repository.private, "tags": [], "downloads": 0, "lastModified": "2026-01-01T00:00:00.000Z"},
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
