"""The ledger: every request that was ever made, so that what was paid for is never asked again.

One SQLite file in write-ahead mode. A reply is committed the moment it arrives; a process that is killed
loses at most the requests in flight.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from vistune.errors import VistuneError
from vistune.llm.request import ChatReply, ChatRequest, Usage, read_reply

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,      -- hash of model, parameters and messages
    model TEXT NOT NULL,
    parameters TEXT NOT NULL,  -- JSON
    asked TEXT NOT NULL,       -- the last message
    state TEXT NOT NULL CHECK (state IN ('asked', 'done', 'failed')),
    response TEXT,             -- the raw body
    error TEXT,                -- of the last attempt that failed
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost REAL,                 -- in the price table's currency; NULL where no price was known
    attempts INTEGER NOT NULL, -- HTTP requests made
    created REAL NOT NULL,     -- Unix time
    updated REAL NOT NULL
) WITHOUT ROWID
"""
_ASK = """
INSERT INTO requests (key, model, parameters, asked, state, attempts, created, updated)
VALUES (?, ?, ?, ?, 'asked', 1, ?, ?)
ON CONFLICT (key) DO UPDATE SET attempts = attempts + 1, updated = excluded.updated
"""
_DONE = """
UPDATE requests SET state = 'done', response = ?, error = NULL, prompt_tokens = ?, completion_tokens = ?,
    cost = ?, updated = ? WHERE key = ?
"""


@dataclass(frozen=True)
class Totals:
    """What a ledger holds.

    Attributes:
        done: requests with a reply.
        cost: of those whose price was known.
    """

    done: int
    failed: int
    attempts: int
    usage: Usage
    cost: float


def default_ledger() -> Path:
    """The user's own ledger, for all runs that name no other."""
    return platformdirs.user_data_path("vistune") / "ledger.sqlite"


class Ledger:
    """Opens or begins the ledger at ``path``; a context manager.

    Args:
        read_only: only look at what it holds; works beside a run that uses it, and leaves no trace.

    Raises:
        VistuneError: another run uses it, it is no ledger, or it cannot be written.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")
        if not read_only:
            self._claim()
        try:
            self._open(read_only)
        except sqlite3.Error as error:
            self.close()
            raise VistuneError(
                f"{path}: cannot be used as a ledger ({error}). Choose another --ledger."
            ) from error

    def _claim(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise VistuneError(
                f"{self.path}: another run is using this ledger. "
                "Wait for it, or give this one another --ledger."
            ) from error
        except OSError as error:
            raise VistuneError(
                f"{self.path}: cannot be written ({error.strerror}). Choose another --ledger."
            ) from error

    def _open(self, read_only: bool) -> None:
        if read_only and self.path.exists():
            self._database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            self._database.execute("SELECT key FROM requests LIMIT 1")  # is it a ledger?
            return
        place = ":memory:" if read_only else self.path
        # Autocommit: each statement below is a transaction of its own.
        self._database = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(_SCHEMA)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(AttributeError):
            self._database.close()
        self._lock.release()

    def reply(self, key: str) -> ChatReply | None:
        """The reply that was paid for, if there is one."""
        row = self._read("SELECT response FROM requests WHERE key = ? AND state = 'done'", (key,))
        return read_reply(row[0], paid_before=True) if row else None

    def asked(self, request: ChatRequest) -> None:
        """Note one HTTP request, before it is made."""
        now = time.time()
        parameters = json.dumps(request.parameters, sort_keys=True)
        self._write(_ASK, (request.key, request.model, parameters, request.messages[-1][1], now, now))

    def done(self, key: str, response: str, usage: Usage, cost: float | None) -> bool:
        """Keep a complete reply; False where no such request was ever noted."""
        return self._write(_DONE, (response, usage.prompt, usage.completion, cost, time.time(), key))

    def failed(self, key: str, error: str, final: bool) -> None:
        """Note why an attempt failed; a ``final`` failure is asked again by the next run alone."""
        self._write(
            "UPDATE requests SET state = ?, error = ?, updated = ? WHERE key = ? AND state != 'done'",
            ("failed" if final else "asked", error, time.time(), key),
        )

    def totals(self, model: str | None = None) -> Totals:
        """Of one model, or of all."""
        row = self._read(
            "SELECT COALESCE(SUM(state = 'done'), 0), COALESCE(SUM(state = 'failed'), 0),"
            " COALESCE(SUM(attempts), 0), COALESCE(SUM(prompt_tokens), 0),"
            " COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(cost), 0.0)"
            " FROM requests WHERE ? IS NULL OR model = ?",
            (model, model),
        )
        assert row is not None
        return Totals(row[0], row[1], row[2], Usage(row[3], row[4]), row[5])

    def _read(self, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        """The first row."""
        try:
            row: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise VistuneError(f"{self.path}: cannot be read ({error}). Choose another --ledger.") from error
        return row

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        """Whether a row was written."""
        try:
            return self._database.execute(statement, values).rowcount > 0
        except sqlite3.Error as error:
            raise VistuneError(
                f"{self.path}: cannot be written ({error}). What it holds is sound; make room and run again."
            ) from error
