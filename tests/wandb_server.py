"""A W&B server in the standard library: the part of the protocol that wandb 0.31 needs to stream and resume runs."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one request: it waits, is refused, or its connection is cut (after it was executed, or before)."""

    delay: float = 0.0
    status: int | None = None
    cut: str = ""  # "before": the connection is closed unread; "after": in the middle of the reply


class Server(ThreadingHTTPServer):
    """Keep each run's history rows, summary and its upserts; `down` makes the server refuse everything.

    `fault(kind)` is called at each request: kind is "graphql", "file_stream" or "upload". `offsets` holds (run, first row,
    number of rows) of each message with rows; `changed` the rows overwritten with other content, `gaps` the missing ones.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.upserts: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, int] = {}
        self.offsets: list[tuple[str, int, int]] = []
        self.changed: list[str] = []
        self.gaps: list[str] = []
        self.down = False
        self.fault: Callable[[str], Fault | None] = lambda kind: None
        self.requests = 0
        self.ended = threading.Event()  # ends all delays
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: the tests kill clients."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server()
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        kind = next((name for name in ("graphql", "file_stream") if self.path.endswith(f"/{name}")), "upload")
        with self.server.lock:
            self.server.requests += 1
            fault = self.server.fault(kind) or Fault()
        if fault.cut == "before":
            self.close_connection = True
            return
        body = self._body()
        self.server.ended.wait(fault.delay)
        if self.server.down or fault.status is not None:
            self._answer({"error": "a fault of the test"}, fault.status or 503)
            return
        with self.server.lock:
            answer = self._obey(kind, body)
        self._answer(answer, cut=fault.cut == "after")

    do_PUT = do_POST

    def _obey(self, kind: str, body: bytes) -> dict[str, Any]:
        if kind == "graphql":
            data = json.loads(body)
            return {"data": self._graphql(data["query"], data.get("variables") or {})}
        if kind == "file_stream":
            self._stream(self.path.split("/")[-2], json.loads(body))
        return {}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    def _answer(self, data: dict[str, Any], status: int = 200, cut: bool = False) -> None:
        body = json.dumps(data).encode() + b" " * 16
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": "e"}
        if "query Run(" in query:
            lines = len(self.server.rows.get(given["name"], []))
            plain = {"id": given["name"], "name": given["name"], "projectId": "1", "historyLineCount": lines}
            run = {**plain, "displayName": "", "state": "finished", "tags": [], "config": "{}", "summaryMetrics": "{}"}
            times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00")
            nothing = dict.fromkeys(("sweepName", "group", "jobType", "commit", "readOnly", "description", "notes"))
            run |= (
                times | nothing | {"systemMetrics": "{}", "user": {"name": "e", "username": "e"}, "historyKeys": None}
            )
            return {"project": {"run": run}}
        if "RunResumeStatus" in query:
            return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": self._resume(given["name"])}}
        if "UpsertBucket" in query:
            run = given["name"]
            self.server.upserts.setdefault(run, {}).update({k: v for k, v in given.items() if v is not None})
            project = {"id": "p", "name": given.get("project") or "p", "entity": entity}
            bucket = {"id": run, "name": run, "displayName": "", "description": "", "config": "{}", "sweepName": None}
            lines = len(self.server.rows.setdefault(run, []))
            return {
                "upsertBucket": {"bucket": {**bucket, "project": project, "historyLineCount": lines}, "inserted": True}
            }
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        viewer = {"id": "u", "entity": "e", "username": "e", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": []}}

    def _resume(self, run: str) -> dict[str, Any] | None:
        rows = self.server.rows.get(run)
        if rows is None:
            return None
        lines = {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
        names = {"id": run, "name": run, "displayName": "", "notes": "", "tags": []}
        summary = json.dumps(self.server.summary.get(run, {}))
        return {**lines, **tails, **names, "summaryMetrics": summary, "config": "{}", "wandbConfig": '{"t": 1}'}

    def _stream(self, run: str, data: dict[str, Any]) -> None:
        files = data.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            self._history(run, history["offset"], [json.loads(line) for line in history["content"]])
        if summary := files.get("wandb-summary.json"):
            self.server.summary[run] = json.loads(summary["content"][-1])
        if data.get("complete"):
            self.server.exit_codes[run] = data["exitcode"]

    def _history(self, run: str, offset: int, new: list[dict[str, Any]]) -> None:
        """Write rows at their offset; a message that comes twice, or late from a dead process, changes nothing."""
        rows = self.server.rows.setdefault(run, [])
        self.server.offsets.append((run, offset, len(new)))
        if offset > len(rows):
            self.server.gaps.append(f"{run}: {len(rows)} to {offset}")
        for place, row in enumerate(new, offset):
            if place < len(rows) and numbers(rows[place]) != numbers(row):
                self.server.changed.append(f"{run} row {place}: {numbers(rows[place])} -> {numbers(row)}")
            rows[place : place + 1] = [row]


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without W&B's fields, and without times and usage, which differ when a trial repeats its work."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith(("_", "resources/")) and not name.endswith(("seconds", "per_second"))
    }
