"""A W&B server of the standard library: as much of its protocol as wandb 0.31 needs to stream and resume runs."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Keeps each run's history rows, summary and how it was upserted; `down` makes it refuse everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.summary: dict[str, dict[str, Any]] = {}
        self.upserts: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, int] = {}
        self.down = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self._body()
        if self.server.down:
            self._answer({}, 503)
        elif self.path.endswith("/graphql"):
            data = json.loads(body)
            self._answer({"data": self._graphql(data["query"], data.get("variables") or {})})
        else:
            if self.path.endswith("/file_stream"):
                self._stream(self.path.split("/")[-2], json.loads(body))
            self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body

    def _answer(self, data: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": "e"}
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
            rows = self.server.rows.setdefault(run, [])
            rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
        if summary := files.get("wandb-summary.json"):
            self.server.summary[run] = json.loads(summary["content"][-1])
        if data.get("complete"):
            self.server.exit_codes[run] = data["exitcode"]
