"""A hub on loopback: answers huggingface_hub's own client the way the real one does, faults included.

Point the client at it with HF_ENDPOINT:

    files = {"owner/models/weights.pth": path, "datasets/owner/rows/a.parquet": b"..."}
    with serve_hub(files, gated={"owner/rows"}, token="hf_good") as hub:
        subprocess.run(command, env={**os.environ, **hub.env(cache_folder)})

What it speaks: the resolve endpoint (HEAD and GET; X-Repo-Commit, ETag, X-Linked-Size and X-Linked-Etag), large files
redirected to a second host, whose requests must carry no token, byte ranges, repositories that moved, 401, 403 and 404
with the hub's X-Error-Code, and the parts of the API that list a repository. Who brings the token may make a repository
and push files, small ones in the commit and large ones beside it, as the client does without Xet.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from frames_matter.data.loopback import parse_range

COMMIT = "5f4dcc3b5aa765d61d8327deb882cf9900000001"
CHUNK = 1 << 20


@dataclass
class Hub:
    "What is served, how it misbehaves, and what was asked for."

    files: dict  # "owner/repository/path", or "datasets/owner/repository/path" -> Path or bytes
    gated: frozenset = frozenset()  # "owner/repository": terms must be accepted
    token: str = ""  # the one token that is valid; it has access to what is gated
    stranger: str = ""  # another valid token, whose account has accepted no terms
    cut: dict = field(default_factory=dict)  # file's name -> bytes after which the connection breaks
    cuts_left: int = 1  # connections that break, for each file
    moved: dict = field(default_factory=dict)  # old "owner/repository" -> new
    revisions: tuple = ("main",)  # names of the commit
    broken: int = 0  # a status that every request gets, if not 0
    # beginning of a name in `files` -> the one revision that such files are in; others are in every revision
    at: dict = field(default_factory=dict)
    large: int = 1000  # bytes from which a file is redirected to the second host
    commit: str = COMMIT
    requests: list = field(default_factory=list)  # (method, path, has a token, Range header) of every request
    made: set = field(default_factory=set)  # "owner/repository" that were made by push
    uploads: dict = field(default_factory=dict)  # SHA-256 -> the bytes of large files that were pushed
    url: str = ""

    def env(self, home):  # of a process whose client asks this hub and keeps its cache in `home`
        "Environment variables for the client. Proxies and tokens of this machine are kept out."
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "",
            "NO_PROXY": "*",
            "no_proxy": "*",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def asked(self, method, ending):  # number of requests
        return sum(m == method and urlsplit(p).path.endswith(ending) for m, p, *_ in self.requests)


def _size(content):
    return len(content) if isinstance(content, bytes) else Path(content).stat().st_size


def _digest(content):
    sha = hashlib.sha256()
    if isinstance(content, bytes):
        sha.update(content)
    else:
        with open(content, "rb") as f:
            while part := f.read(CHUNK):
                sha.update(part)
    return sha.hexdigest()


def _parts(content, first, last):
    "The bytes from `first` to `last`, both included, a piece at a time."
    if isinstance(content, bytes):
        yield content[first : last + 1]
    else:
        with open(content, "rb") as f:
            f.seek(first)
            left = last - first + 1
            while left and (part := f.read(min(CHUNK, left))):
                left -= len(part)
                yield part


FILE_OF_A_REPOSITORY = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
API_OF_A_REPOSITORY = (
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<under>.*))?)?"
)

PUSH_TO_A_REPOSITORY = r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/(?P<revision>[^/]+)"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._route(body=False)

    def do_GET(self):
        self._route(body=True)

    def do_POST(self):
        self.posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._route(body=True)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.hub.uploads[urlsplit(self.path).path.removeprefix("/upload/")] = content
        self._say(200)

    def _answer(self, answer):
        self._say(200, body=json.dumps(answer).encode(), **{"Content-Type": "application/json"})

    def _push(self, path, bearer):
        "What a push asks; whether it was that, and has been answered."
        hub, match = self.server.hub, re.fullmatch(PUSH_TO_A_REPOSITORY, path)
        if not (
            match or path in ("/api/repos/create", "/api/validate-yaml") or path.endswith("/info/lfs/objects/batch")
        ):
            return False
        if bearer != hub.token or not hub.token:
            self._refuse(401, "", "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(self.posted)
            repo = f"{asked['organization']}/{asked['name']}"
            hub.made.add(repo)
            self._answer({"url": f"{hub.url}/{repo}", "id": repo, "name": repo})
        elif not match:
            self._answer({"objects": [self._place_for(of) for of in json.loads(self.posted)["objects"]]})
        elif match["what"] == "preupload":
            asked = json.loads(self.posted)["files"]
            self._answer({"files": [self._mode_for(of, hub.large) for of in asked]})
        else:
            self._commit(match["repo"])
        return True

    def _mode_for(self, file, large):
        mode = "lfs" if file["size"] >= large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _place_for(self, file):
        href = f"{self.server.hub.url}/upload/{file['oid']}"
        return file | {"authenticated": True, "actions": {"upload": {"href": href}}}

    def _commit(self, repo):
        hub = self.server.hub
        for line in self.posted.splitlines():
            entry = json.loads(line)
            told = entry["value"]
            if entry["key"] == "file":
                hub.files[f"{repo}/{told['path']}"] = base64.b64decode(told["content"])
            elif entry["key"] == "lfsFile":
                hub.files[f"{repo}/{told['path']}"] = hub.uploads[told["oid"]]
        url = f"{hub.url}/{repo}/commit/{hub.commit}"
        self._answer({"success": True, "commitOid": hub.commit, "commitUrl": url})

    def _route(self, body):
        hub, path = self.server.hub, urlsplit(self.path).path  # a revision may have slashes, which the client escapes
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not path.startswith("/api/agent-harnesses"):  # what the client asks about itself
            hub.requests.append((self.command, self.path, bool(bearer), self.headers.get("Range")))
        if hub.broken:
            self._refuse(hub.broken, "", "the hub is broken")
        elif self.command == "POST" and self._push(path, bearer):
            pass
        elif path.startswith("/cdn/"):
            self._second_host(unquote(path), bearer, body)
        elif match := re.fullmatch(FILE_OF_A_REPOSITORY, path):
            kind, repo, revision, name = match["kind"] or "", match["repo"], unquote(match["revision"]), match["name"]
            if self._may(kind, repo, revision, bearer, path):
                self._resolve(kind, repo, revision, unquote(name), body)
        elif match := re.fullmatch(API_OF_A_REPOSITORY, path):
            kind = "datasets/" if match["kind"] == "datasets" else ""
            revision, under = unquote(match["revision"] or "main"), unquote(match["under"] or "")
            if self._may(kind, match["repo"], revision, bearer, path):
                self._list(kind, match["repo"], match["what"], revision, under)
        else:
            self._refuse(404, "", f"no such page: {path}")

    def _second_host(self, path, bearer, body):
        if bearer:
            self._refuse(400, "", "a token was sent to the second host")
        else:
            self._send(path.removeprefix("/cdn/"), body)

    def _may(self, kind, repo, revision, bearer, path):
        "Whether the request may go on; if not, it has been answered."
        hub = self.server.hub
        if repo in hub.moved:
            return self._say(307, Location=path.replace(repo, hub.moved[repo], 1))
        if bearer and bearer not in (hub.token, hub.stranger):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if not any(name.startswith(f"{kind}{repo}/") for name in hub.files):
            if bearer:
                return self._refuse(404, "RepoNotFound", "Repository not found")
            return self._refuse(401, "", "Invalid username or password.")
        if repo in hub.gated and bearer != hub.token:
            told = f"Access to {repo} is restricted. Visit {hub.url}/{kind}{repo} to ask for access."
            return self._refuse(403 if bearer else 401, "GatedRepo", told)
        if revision not in (*hub.revisions, hub.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}", **{"X-Repo-Commit": ""})
        return True

    def _there(self, key, revision):
        "Whether a file is in a revision."
        hub = self.server.hub
        only = next((r for start, r in hub.at.items() if key.startswith(start)), None)
        return key in hub.files and (only is None or revision in (only, hub.commit))

    def _resolve(self, kind, repo, revision, name, body):
        hub, key = self.server.hub, f"{kind}{repo}/{name}"
        commit = {"X-Repo-Commit": hub.commit}
        if not self._there(key, revision):
            return self._refuse(404, "EntryNotFound", "Entry not found", **commit)
        size = _size(hub.files[key])
        if size < hub.large:
            return self._send(key, body, **commit)
        self._say(
            302,
            Location=f"http://localhost:{self.server.server_port}/cdn/{key}",
            **{"X-Linked-Size": size, "X-Linked-Etag": f'"{self.server.digest(key)}"'},
            **commit,
        )

    def _send(self, key, body, **headers):
        hub, content = self.server.hub, self.server.hub.files[key]
        size = _size(content)
        try:
            span = parse_range(self.headers.get("Range"), size)
        except ValueError:
            return self._say(416, **{"Content-Range": f"bytes */{size}"})
        first, last = span or (0, size - 1)
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._say(
            206 if span else 200,
            last - first + 1,
            ETag=f'"{self.server.digest(key)}"',
            **{"Accept-Ranges": "bytes"},
            **headers,
        )
        if not body:
            return
        name = key.rpartition("/")[2]
        breaks = self.server.cuts[key] < hub.cuts_left and hub.cut.get(name)
        if breaks:
            last, self.close_connection = min(last, first + breaks - 1), True
        self.server.cuts[key] += bool(breaks)
        with contextlib.suppress(ConnectionError):
            for part in _parts(content, first, last):
                self.wfile.write(part)

    def _list(self, kind, repo, what, revision, under):
        hub, prefix = self.server.hub, f"{kind}{repo}/"
        below = f"{prefix}{under}/" if under else prefix
        found = [key for key in hub.files if key.startswith(below) and self._there(key, revision)]
        names = sorted(key.removeprefix(prefix) for key in found)
        if under and not names:
            commit = {"X-Repo-Commit": hub.commit}
            return self._refuse(404, "EntryNotFound", f"{under} does not exist on {revision}", **commit)
        if what == "paths-info":
            answer = self._infos(prefix, names)
        elif what == "tree":
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            inside = len(under) + bool(under)
            answer = [self._entry(prefix, name) for name in names if deep or "/" not in name[inside:]]
        else:
            siblings = [{"rfilename": name} for name in names]
            gated = "manual" if repo in hub.gated else False
            answer = dict(id=repo, sha=hub.commit, private=False, gated=gated, tags=[], siblings=siblings)
        self._say(200, body=json.dumps(answer).encode(), **{"Content-Type": "application/json"})

    def _entry(self, prefix, name):
        "What a listing says of a file."
        size, sha = _size(self.server.hub.files[prefix + name]), self.server.digest(prefix + name)
        entry = {"type": "file", "path": name, "size": size, "oid": sha[:40]}
        if size >= self.server.hub.large:
            entry["lfs"] = {"oid": sha, "size": size, "pointerSize": 134}
        return entry

    def _infos(self, prefix, names):
        "What is said of the paths that were posted, as JSON or as a form: files and folders."
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(self.posted)["paths"]
        else:
            fields = self.posted.decode().split("&")
            asked = [unquote(f.partition("=")[2]) for f in fields if f.startswith("paths=")]
        files = [self._entry(prefix, name) for name in names if name in asked]
        folders = [path for path in asked if any(name.startswith(f"{path}/") for name in names)]
        return files + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]

    def _refuse(self, status, code, message, **headers):
        headers |= {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._say(status, body=json.dumps({"error": message}).encode(), **headers)  # an empty header is not sent

    def _say(self, status, length=0, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": length or len(body), **headers}.items():
            if value != "":
                self.send_header(name, str(value))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 64

    def digest(self, key):
        content = self.hub.files[key]  # which a test may change
        if self.digests.get(key, (None,))[0] is not content:
            self.digests[key] = content, _digest(content)
        return self.digests[key][1]


@contextlib.contextmanager
def serve_hub(
    files: dict,  # "owner/repository/path" or "datasets/owner/repository/path" -> Path or bytes
    **how,  # fields of `Hub`
):  # yields the Hub, whose `url` is its address
    "Serve a hub on a free port of this machine while the block runs."
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(files, **how, url=f"http://127.0.0.1:{server.server_port}")
    server.digests, server.cuts = {}, defaultdict(int)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
