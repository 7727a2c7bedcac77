"""A server on this machine that speaks the Hugging Face hub's protocol, as far as snapshots and commits need it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub.constants import ENDPOINT

TOKEN = 'hf_secret'


class Hub:
    """Repositories by name: revision -> file -> bytes. What goes wrong is set on the instance."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()  # need TOKEN
        self.gated: set[str] = set()
        self.readonly: set[str] = set()  # refuse commits
        self.cut: list[int] = []  # each of the next answers with a file ends after so many bytes
        self.damaged: set[str] = set()  # files that arrive with other bytes than their checksum tells
        self.log: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.tokens: set[str | None] = set()  # that requests sent

    def add(self, repo: str, files: dict[str, bytes], revision: str = 'main') -> None:
        self.repos.setdefault(repo, {})[revision] = dict(files)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision, which may be a commit."""
        for name, files in self.repos[repo].items():
            commit = hashlib.sha1(f'{repo} {name} {sorted(files)}'.encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *_: object) -> None:
        pass

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.hub.log.append(('POST', self.path, None))
        parts = self.path.split('/')
        if self.path == '/api/repos/create':
            self.hub.created = json.loads(body)
            repo = '/'.join(filter(None, (self.hub.created.get('organization'), self.hub.created['name'])))
            self.hub.repos.setdefault(repo, {'main': {}})
            return self.json(dict(url=f'http://{self.headers["Host"]}/{repo}'))
        if self.path == '/api/validate-yaml':
            return self.json(dict(errors=[], warnings=[]))
        repo, action = '/'.join(parts[3:5]), parts[5]
        if repo in self.hub.readonly:
            return self.refuse(403, 'Forbidden')
        if action == 'preupload':
            paths = [each['path'] for each in json.loads(body)['files']]
            return self.json(dict(files=[dict(path=path, uploadMode='regular', shouldIgnore=False) for path in paths]))
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                self.hub.repos[repo]['main'][line['value']['path']] = base64.b64decode(line['value']['content'])
        url = f'{ENDPOINT}/{repo}/commit/0'  # the client does not take another than its own
        return self.json(dict(commitUrl=url, commitOid='0' * 40, success=True))

    def answer(self) -> None:
        self.hub.log.append((self.command, self.path, self.headers.get('Range')))
        self.hub.tokens.add(self.headers.get('Authorization'))
        api = self.path.startswith('/api/models/')
        parts = self.path.removeprefix('/api/models').split('?')[0].strip('/').split('/')
        repo, revision = '/'.join(parts[:2]), parts[3] if len(parts) > 3 else 'main'
        allowed = self.headers.get('Authorization') == f'Bearer {TOKEN}'
        if repo not in self.hub.repos or (repo in self.hub.private and not allowed):
            return self.refuse(401 if repo in self.hub.private else 404, 'RepoNotFound')
        if repo in self.hub.gated and not allowed:
            return self.refuse(403, 'GatedRepo')
        found = self.hub.find(repo, revision)
        if found is None:
            return self.refuse(404, 'RevisionNotFound')
        commit, files = found
        if api:
            return self.json(dict(id=repo, sha=commit, siblings=[dict(rfilename=name) for name in files], tags=[]))
        name = '/'.join(parts[4:])
        return self.file(name, files[name], commit) if name in files else self.refuse(404, 'EntryNotFound')

    def file(self, name: str, data: bytes, commit: str) -> None:
        checksum = hashlib.sha256(data).hexdigest() if len(data) > 1000 else hashlib.sha1(data).hexdigest()
        start = int((self.headers.get('Range') or 'bytes=0-').split('=')[1].split('-')[0])
        if name in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        part = data[start:]
        self.send_response(206 if start else 200)
        for key, value in {'ETag': f'"{checksum}"', 'X-Repo-Commit': commit, 'Content-Length': len(part)}.items():
            self.send_header(key, str(value))
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
        self.end_headers()
        if self.command == 'GET':
            cut = self.hub.cut.pop(0) if self.hub.cut and len(data) > 1000 else None
            self.wfile.write(part[:cut])
            self.close_connection = cut is not None

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def json(self, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)


@contextmanager
def serve() -> Iterator[tuple[Hub, str]]:
    """A hub without repositories, and its address."""
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.hub = Hub()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.hub, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
