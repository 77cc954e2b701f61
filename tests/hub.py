"""A hub of one's own on this machine: repositories as dicts, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "c0ffee" * 6 + "c0ff"
SMALL = 64  # bytes up to which a file lies in git itself, without a SHA-256


@dataclass
class Hub:
    """What it has, how it misbehaves, and what it was asked for.

    Attributes:
        repositories: Contents by file name, by repository.
        cut: Bytes after which the connection is closed, for the next answers with this file.
        down: Answer every file with "unavailable".
        dies: Be down once a connection has been cut.
        twisted: Files of which another content is sent than stated.
        silent: State no digests.
        asked: Path and first byte of every file asked for.
    """

    repositories: dict[str, dict[str, bytes]]
    cut: dict[str, list[int]] = field(default_factory=dict)
    down: bool = False
    dies: bool = False
    twisted: set[str] = field(default_factory=set)
    silent: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    def listing(self, repository: str) -> dict[str, Any] | None:
        if repository not in self.repositories:
            return None
        siblings = []
        for name, content in self.repositories[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            facts: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
            if len(content) > SMALL:
                digest = hashlib.sha256(content).hexdigest()
                facts["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append({"rfilename": name} if self.silent else facts)
        return {"id": repository, "sha": REVISION, "siblings": siblings}

    def starts(self, file: str) -> list[int]:
        """From which byte on a file was asked for, each time."""
        return [start for path, start in self.asked if path.endswith("/" + file)]

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/api/models/"):
                    found = hub.listing(path.removeprefix("/api/models/"))
                    self.answer(404 if found is None else 200, json.dumps(found or {}).encode())
                    return
                repository, _, rest = path[1:].partition("/resolve/")
                revision, _, file = rest.partition("/")
                content = hub.repositories.get(repository, {}).get(file)
                start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
                hub.asked.append((path, start))
                if content is None or revision != REVISION:
                    self.answer(404, b"")
                elif hub.down:
                    self.answer(503, b"")
                else:
                    self.send_file(file, content, start)

            def send_file(self, file: str, content: bytes, start: int) -> None:
                if file in hub.twisted:
                    content = content[::-1]
                body = content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                if start:
                    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    self.send_header("Content-Range", span)
                self.end_headers()
                if cuts := hub.cut.get(file):
                    self.wfile.write(body[: cuts.pop(0)])
                    self.close_connection, hub.down = True, hub.dies
                else:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
