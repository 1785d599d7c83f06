"""A small OpenAI-compatible server for tests; run as a program, it is a `vllm` that answers without a model.

It answers with the words of the last question, one chunk each, and keeps what it was asked. How it behaves is
asked for in the model's name or in the environment variable FAKE_ENGINE.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}


class FakeOpenAI(ThreadingHTTPServer):
    """Serves on a free port of this machine.

    Attributes:
        models: what ``/v1/models`` says.
        asked: the bodies of all requests; ``keys``: their Authorization headers.
        reply: a status, headers and a body in the place of an answer.
        chunks: lines of an answer's stream in the place of its own.
        endless: answers have no end; ``gone`` is set once a client has left one.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, models=({"id": "llava", "max_model_len": 2048},)) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.models, self.asked, self.keys = list(models), [], []
        self.reply = self.chunks = None
        self.endless, self.gone = False, threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeOpenAI

    def do_GET(self):
        if self.path == "/health":
            return self._send(200, {}, b"")
        self.server.keys.append(self.headers.get("Authorization"))
        if self.server.reply and self.server.reply[0] in (401, 404):
            return self._send(*self.server.reply)
        return self._send(200, {}, json.dumps({"object": "list", "data": self.server.models}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        if self.server.reply:
            return self._send(*self.server.reply)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for line in self._endless() if self.server.endless else self.server.chunks or self._own(body):
                self.wfile.write(f"data: {line}\n\n".encode())
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.server.gone.set()
        self.close_connection = True

    def _own(self, body):
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        words = " ".join(part.get("text", "[picture]") for part in parts).split()
        for number, word in enumerate(words):
            yield chunk(word if number == 0 else " " + word)
        yield chunk("", "stop")
        yield json.dumps({"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        yield "[DONE]"

    def _endless(self):
        while True:
            yield chunk("again ")
            time.sleep(0.01)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def chunk(text, finish=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"id": "1", "object": "chat.completion.chunk", "choices": [choice]})


def main(arguments):
    """``vllm serve PATH --port N …``, or SGLang; FAKE_ENGINE says what goes wrong."""
    behaviour, notes = os.environ.get("FAKE_ENGINE", ""), os.environ["FAKE_ENGINE_NOTES"]
    with open(notes, "a", encoding="utf-8") as file:
        file.write(json.dumps({"arguments": arguments, "pid": os.getpid()}) + "\n")
    options = dict(itertools.pairwise(arguments))
    print("INFO loading the model", flush=True)
    if behaviour == "crash":
        print("\x1b[31mValueError: no room for the key-value cache\x1b[0m", flush=True)
        raise SystemExit(7)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "slow":
        time.sleep(2)
    if behaviour == "hangs":
        time.sleep(600)
    with open(notes, encoding="utf-8") as file:
        first = len(file.readlines()) == 1
    server = FakeOpenAI(int(options["--port"]), [{"id": options["--served-model-name"]}])
    if behaviour == "dies" and first:
        threading.Timer(1.0, lambda: os._exit(9)).start()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
