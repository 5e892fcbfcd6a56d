"""A loopback stand-in for the Hub: enough of its HTTP interface to create, fill, list and read repositories.

The libraries read `HF_ENDPOINT` and `HF_HOME` when they are imported, so the stub is driven from fresh processes
(`HubStub.run`). Nothing is stored on disk; every repository is `{commit: {path: sha256}}` plus `{branch: commit}`.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

ROOT = Path(__file__).resolve().parent.parent
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".pt", ".npz", ".npy", ".onnx", ".model", ".mp4", ".wav", ".png")
KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}

# Put in front of a script that must not find the package, even where it is installed.
BLOCK_PACKAGE = """\
import importlib.abc as _abc, sys as _sys


class _Block(_abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_mmintent":
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)


_sys.meta_path.insert(0, _Block())
"""


@dataclass
class Repo:
    """One repository: its commits (never changed once made) and the branches that point to them."""

    private: bool
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, str], message: str, ref: str = "main") -> str:
        text = json.dumps([files, message, len(self.commits)], sort_keys=True)
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        """Commit of a branch, of a full reference (`refs/heads/main`) or of a commit id; None when unknown."""
        name = revision.removeprefix("refs/heads/")
        return self.refs.get(name) or (revision if revision in self.commits else None)


class HubError(Exception):
    """An answer with the status, the error code header and the headers that the client library looks at."""

    def __init__(self, status: int, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.status, self.headers = status, {**({"X-Error-Code": code} if code else {}), **(headers or {})}


def check_card(content: str, repo_type: str) -> None:
    """The rules of the Hub's metadata check that matter here; raises `HubError(400)`."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.S)
    try:
        data = yaml.safe_load(match.group(1)) if match else None
        assert isinstance(data, dict), "no metadata block at the top"
        assert repo_type != "model" or isinstance(data.get("license", ""), str), "license must be a string"
        assert data.get("license") != "other" or data.get("license_name"), "license: other needs license_name"
        for key in ("tags", "datasets", "metrics"):
            values = data.get(key, [])
            assert isinstance(values, list) and all(isinstance(v, str) for v in values), f"{key}: list of strings"
        for entry in data.get("model-index", []) if repo_type == "model" else []:
            assert entry["name"] and entry["results"], "model-index needs a name and results"
            for result in entry["results"]:
                assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
                for metric in result["metrics"]:
                    finite = isinstance(metric["value"], int | str) or abs(metric["value"]) < float("inf")
                    assert metric["type"] and finite, f"{metric['type']}: value must be a finite number or a text"
    except (AssertionError, KeyError, TypeError, yaml.YAMLError) as error:
        raise HubError(400, f"Invalid metadata: {error!r}") from error


class HubStub:
    """The server. Use it as a context manager; `repos` and `requests` may be inspected at any time."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repos: dict[tuple[str, str], Repo] = {}  # (kind, id) -> repository
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"stub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._runs = 0

    def __enter__(self) -> "HubStub":
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Content of every file of a revision."""
        repo = self.repos[kind, repo_id]
        return {path: self.blobs[blob] for path, blob in repo.commits[repo.resolve(revision)].items()}

    def run(
        self,
        script: str,
        *args: object,
        without_package: bool = False,
        token: str | None = "hf_stub",
        timeout: float = 180,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source in a fresh process whose Hub is this stub, from an empty folder and a fresh `HF_HOME`.

        Args:
            script: Python source.
            *args: become `sys.argv[1:]`.
            without_package: the process cannot import `hf_mmintent`, and the checkout is not on its path.
            token: value of `HF_TOKEN`; None for a visitor who is not logged in.
            timeout: seconds after which the process is killed.
            check: fail with the process's output unless it exits with 0.
        """
        self._runs += 1
        folder = self.home / f"run_{self._runs}"
        folder.mkdir(parents=True)
        path = folder / "script.py"
        path.write_text((BLOCK_PACKAGE if without_package else "") + script, encoding="utf-8")
        drop = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "PYTHONPATH", "HF_HUB_CACHE", "HF_MODULES_CACHE")
        env = {key: value for key, value in os.environ.items() if key not in drop}
        env.update(HF_ENDPOINT=self.url, HF_HOME=str(folder / "home"), HF_HUB_DISABLE_XET="1", OMP_NUM_THREADS="1")
        env.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")
        if token is not None:
            env["HF_TOKEN"] = token
        if not without_package:
            env["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, str(path), *map(str, args)]
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout)
        if check and result.returncode != 0:
            raise AssertionError(f"exit code {result.returncode}\n{result.stdout}\n{result.stderr[-6000:]}")
        return result


_NAME = r"(?P<repo>[^/]+/[^/]+)"
_PREFIX = r"/(?:(?P<plural>datasets|spaces)/)?"
_API = rf"/api/(?P<kind>models|datasets|spaces)/{_NAME}"
ROUTES: list[tuple[str, str, str]] = [  # method, pattern on the *quoted* path (a revision may hold %2F), handler
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"{_API}/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", rf"{_API}/commit/(?P<rev>[^/]+)", "commit"),
    ("POST", rf"{_API}/paths-info/(?P<rev>[^/]+)", "paths_info"),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", "branch"),
    ("GET", rf"{_API}/refs", "refs"),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", rf"{_API}(?:/revision/(?P<rev>[^/]+))?", "info"),
    ("POST", rf"{_PREFIX}{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", rf"{_PREFIX}{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "download"),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: HubStub

    def log_message(self, *args: object) -> None:
        pass  # the test output stays readable; `stub.requests` keeps the record

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        self.body = self._body()  # always read: the connection is reused
        path, _, query = self.path.partition("?")
        self.query = {key: values[-1] for key, values in parse_qs(query).items()}
        method = "GET" if self.command == "HEAD" else self.command
        try:
            with self.stub.lock:
                self.stub.requests.append(f"{self.command} {unquote(path)}")
                for wanted, pattern, name in ROUTES:
                    if wanted == method and (match := re.fullmatch(pattern, path)):
                        answer = getattr(self, name)(**self._arguments(match))
                        break
                else:
                    raise HubError(404)
        except HubError as error:
            text = str(error)
            return self._reply(error.status, json.dumps({"error": text}).encode(), error.headers)
        status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        return self._reply(status, body, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 (names that http.server looks up)

    def _arguments(self, match: re.Match[str]) -> dict[str, Any]:
        """The parts of the address, unquoted, with the repository and its commit looked up."""
        parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
        arguments: dict[str, Any] = {key: parts[key] for key in ("path", "oid", "branch") if key in parts}
        if "repo" in parts:
            key = (parts.get("kind") or parts.get("plural") or "models", parts["repo"])
            repo = self.stub.repos.get(key)
            hidden = repo is not None and repo.private and "Authorization" not in self.headers
            if repo is None or hidden:  # like the Hub: a private repository looks like one that does not exist
                raise HubError(401 if hidden else 404, "RepoNotFound")
            arguments |= {"name": key[1], "repo": repo}
        if "rev" in parts:
            arguments["sha"] = repo.resolve(parts["rev"])
            arguments["ref"] = parts["rev"].removeprefix("refs/heads/")
            if arguments["sha"] is None:
                raise HubError(404, "RevisionNotFound")
        return arguments

    def _blob(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        self.stub.blobs[oid] = data
        return oid

    def _is_lfs(self, path: str, size: int) -> bool:
        return path.endswith(LFS_SUFFIXES) or size > 10_000_000

    def _entry(self, path: str, oid: str) -> dict[str, Any]:
        data = self.stub.blobs[oid]
        sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": sha1}
        if self._is_lfs(path, len(data)):
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
        return entry

    def whoami(self) -> dict[str, Any]:
        if "Authorization" not in self.headers:
            raise HubError(401)
        auth = {"type": "access_token", "accessToken": {"role": "write"}}
        return {"type": "user", "name": "me", "orgs": [], "auth": auth}

    def create(self) -> tuple[int, dict[str, Any], dict[str, str]]:
        if "Authorization" not in self.headers:
            raise HubError(401)
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        kind = KINDS[request.get("type") or "model"]
        exists = (kind, name) in self.stub.repos
        if not exists:
            private = request.get("visibility") == "private" or bool(request.get("private"))
            self.stub.repos[kind, name] = Repo(private)
            self.stub.repos[kind, name].commit({}, "initial commit")
        url = f"{self.stub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        return (409 if exists else 200), {"url": url, "name": name, "id": name}, {}

    def validate(self) -> dict[str, list[str]]:
        request = json.loads(self.body)
        check_card(request["content"], request["repoType"])
        return {"errors": [], "warnings": []}

    def preupload(self, name: str, repo: Repo, sha: str, ref: str) -> dict[str, Any]:
        files = json.loads(self.body)["files"]
        modes = {f["path"]: "lfs" if self._is_lfs(f["path"], f["size"]) else "regular" for f in files}
        return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes.items()]}

    def commit(self, name: str, repo: Repo, sha: str, ref: str) -> dict[str, Any]:
        if "Authorization" not in self.headers:
            raise HubError(401)
        files, message = dict(repo.commits[sha]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = self._blob(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.stub.blobs:
                    raise HubError(400, "LfsObjectMissing")
                files[value["path"]] = value["oid"]
            elif key in ("deletedFile", "deletedFolder"):
                start = value["path"].rstrip("/")
                files = {p: o for p, o in files.items() if p != start and not p.startswith(start + "/")}
        new = repo.commit(files, message, ref)
        url = f"{self.stub.url}/{name}/commit/{new}"
        return {"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""}

    def paths_info(self, name: str, repo: Repo, sha: str, ref: str) -> list[dict[str, Any]]:
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        paths = [paths] if isinstance(paths, str) else paths
        return [self._entry(p, repo.commits[sha][p]) for p in paths if p in repo.commits[sha]]

    def branch(self, name: str, repo: Repo, branch: str) -> dict[str, Any]:
        if branch in repo.refs:
            raise HubError(409)
        start = repo.resolve(json.loads(self.body or b"{}").get("startingPoint") or "main")
        if start is None:
            raise HubError(404, "RevisionNotFound")
        repo.refs[branch] = start
        return {}

    def refs(self, name: str, repo: Repo) -> dict[str, Any]:
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
        return {"branches": branches, "converts": [], "tags": []}

    def tree(self, name: str, repo: Repo, sha: str, ref: str, path: str = "") -> list[dict[str, Any]]:
        start = path.rstrip("/") + "/" if path else ""
        inside = {p: o for p, o in sorted(repo.commits[sha].items()) if p.startswith(start)}
        if path and not inside:
            raise HubError(404, "EntryNotFound")
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        folders = {start + "/".join(parts[:i]) for p in inside for parts in [p[len(start) :].split("/")]
                   for i in range(1, len(parts)) if recursive or i == 1}  # fmt: skip
        entries = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)]
        return entries + [self._entry(p, o) for p, o in inside.items() if recursive or "/" not in p[len(start) :]]

    def info(self, name: str, repo: Repo, sha: str = "", ref: str = "main") -> dict[str, Any]:
        sha = sha or repo.refs["main"]
        fixed = {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        names = {"_id": hashlib.sha1(name.encode()).hexdigest()[:24], "id": name, "modelId": name}
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        return {**names, "author": name.split("/")[0], "sha": sha, "private": repo.private, **fixed,
                "siblings": siblings}  # fmt: skip

    def lfs_batch(self, name: str, repo: Repo) -> dict[str, Any]:
        objects = [{"oid": o["oid"], "size": o["size"]} for o in json.loads(self.body)["objects"]]
        for entry in objects:
            if entry["oid"] not in self.stub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.stub.url}/lfs/{entry['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> tuple[int, bytes, dict[str, str]]:
        if self._blob(self.body) != oid:
            raise HubError(400, "ChecksumMismatch")
        return 200, b"", {"ETag": f'"{oid}"'}

    def download(self, name: str, repo: Repo, sha: str, ref: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        headers = {"X-Repo-Commit": sha}
        if path not in repo.commits[sha]:
            raise HubError(404, "EntryNotFound", headers)
        oid = repo.commits[sha][path]
        data = self.stub.blobs[oid]
        headers |= {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{stop}/{len(data)}"
            return 206, data[start : stop + 1], headers
        return 200, data, headers
