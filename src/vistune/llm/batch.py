"""The Batch API's files: requests to upload, results to read, through the same ledger.

``requests-0001.jsonl`` ... are written; the results that the endpoint returns for them are put beside them,
under any name that begins with ``results``. What waits in a requests file is never written to a second one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vistune.errors import VistuneError
from vistune.lines import read_lines
from vistune.llm.ledger import Ledger
from vistune.llm.prices import Price
from vistune.llm.request import BadReplyError, ChatRequest, read_reply

_MOST_REQUESTS, _MOST_BYTES = 50_000, 190_000_000  # of one file; the API takes 50,000 and 200 MB
_URL = "/v1/chat/completions"


class BatchFolder:
    """A folder of batch files; ``price`` is that of a batch."""

    def __init__(self, folder: Path, ledger: Ledger, price: Price | None) -> None:
        self._folder, self._ledger, self._price = folder, ledger, price
        self._failed: dict[str, set[str]] = {}  # key -> the rows, in results files, that are no reply to it

    def read_results(self) -> Iterator[str]:
        """Take results into the ledger; yields what was found, and each row that cannot be used."""
        for path in sorted(self._folder.glob("results*.jsonl")):
            taken = 0
            for number, line in read_lines(path):
                if not line.strip():
                    continue
                if problem := self._take(line):
                    yield f"{path}: line {number}: {problem}"
                else:
                    taken += 1
            yield f"{path}: {taken} replies"

    def write_requests(self, pending: Iterable[ChatRequest]) -> Iterator[str]:
        """Write what no requests file holds yet; yields what there is to do."""
        waiting = self.waiting()
        fresh = [request for request in pending if request.key not in waiting]
        for path, count in self._write(fresh):
            yield f"{path}: {count} requests. Upload it, and put the results beside it as results-….jsonl."
        if waiting and not fresh:
            yield (
                f"{self._folder}: {len(waiting)} requests still wait for their results. "
                "Remove the file of requests whose batch failed, and they are written anew."
            )

    def _take(self, line: str) -> str | None:
        """Keep one row's reply; or say why not."""
        try:
            row = json.loads(line)
            key, response = str(row["custom_id"]), row.get("response") or {}
            body, status = response.get("body"), response.get("status_code")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"not a result of a batch ({type(error).__name__}: {error})"
        failed = self._failed.setdefault(key, set())
        name = str(row.get("id") or line)  # the same results may be there twice
        if status != 200 or not body:
            failed.add(name)
            return f"{key}: no reply ({row.get('error') or status or 'no response'}); it will be asked again"
        text = json.dumps(body)
        try:
            usage = read_reply(text).usage
        except BadReplyError as error:
            failed.add(name)
            return f"{key}: {error}; it will be asked again"
        if self._ledger.reply(key) is None:
            cost = self._price.of(usage) if self._price else None
            if not self._ledger.done(key, text, usage, cost):
                return f"{key}: this ledger made no such request"
        return None

    def waiting(self) -> set[str]:
        """Keys that have no reply, and stand in more requests files than have failed for them."""
        asked: Counter[str] = Counter()
        for path in self._folder.glob("requests-*.jsonl"):
            for number, line in read_lines(path):
                try:
                    asked[json.loads(line)["custom_id"]] += 1
                except (ValueError, KeyError, TypeError) as error:
                    raise VistuneError(
                        f"{path}: line {number}: not a batch request ({error}). Remove the file."
                    ) from error
        open_ = (key for key, count in asked.items() if count > len(self._failed.get(key, ())))
        return {key for key in open_ if self._ledger.reply(key) is None}

    def _write(self, requests: list[ChatRequest]) -> Iterator[tuple[Path, int]]:
        numbers = (path.stem.removeprefix("requests-") for path in self._folder.glob("requests-*.jsonl"))
        number = max((int(text) for text in numbers if text.isdecimal()), default=0)
        rows = [(request, _row(request)) for request in requests]
        while rows:
            number += 1
            size, take = 0, 0
            for _, row in rows[:_MOST_REQUESTS]:
                size += len(row)
                if size > _MOST_BYTES and take:
                    break
                take += 1
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"requests-{number:04}.jsonl"
            for request, _ in rows[:take]:
                self._ledger.asked(request)
            # Whole or not at all: half a file would be uploaded as if it were whole.
            part = path.with_suffix(".part")
            part.write_bytes(b"".join(row for _, row in rows[:take]))
            part.rename(path)
            yield path, take
            rows = rows[take:]


def _row(request: ChatRequest) -> bytes:
    row: dict[str, Any] = {"custom_id": request.key, "method": "POST", "url": _URL, "body": request.body()}
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()
