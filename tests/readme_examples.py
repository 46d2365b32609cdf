"""The examples of the READMEs: found in the Markdown, run against a real service, compared with its answers.

An example is a block with one curl command and, right after it, a block with the answer. Times differ in
each run, so the README's and the service's are each numbered in the order in which they come up, and the
numbers are compared: what is one time here has to be one time there. A time in a command means the service's
time of the same number.
"""

import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import httpx

Json = object

README_ADDRESS = "localhost:8080/"
READY = re.compile(r"segmentd is ready on (http://\S+)\n")
START_SECONDS = 60
STOP_SECONDS = 30

BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# Not those of 2090 and later: they are asked for, and come back as they were asked for.
TIME = re.compile(r"20[0-8]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the file that it begins in."""

    language: str
    text: str
    line: int
    follows: str
    """What stands between this block and the one before it."""


class Example(NamedTuple):
    """A command, and the answer that the README promises."""

    command: str
    answer: str
    line: int


class Answer(NamedTuple):
    """An answer without what differs in each run; `status` and `headers` only where curl showed them (-i)."""

    status: str | None
    headers: Mapping[str, str] | None
    document: Json


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks, in order."""
    found: list[Block] = []
    end = 0
    for match in BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        found.append(Block(match["language"], match["text"], line, markdown[end : match.start()]))
        end = match.end()
    return found


def examples(
    markdown: str, begins: str = "curl ", answers: tuple[str, ...] = ("json", "http")
) -> list[Example]:
    """The commands that begin so, each with its answer. Raises ValueError for one that has none."""
    found: list[Example] = []
    every = blocks(markdown)
    for index, block in enumerate(every):
        if not block.text.startswith(begins):
            continue
        answer = every[index + 1] if index + 1 < len(every) else None
        if answer is None or answer.language not in answers or answer.follows.strip():
            raise ValueError(f"line {block.line}: the command has no answer right after it")
        found.append(Example(block.text.strip(), answer.text.strip(), block.line))
    return found


class Times:
    """Numbers the times of one telling, in the order in which they come up."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def numbered(self, document: Json) -> Json:
        """The document with numbers in the place of times."""
        match document:
            case dict():
                return {name: self.numbered(document[name]) for name in sorted(document)}
            case list():
                return [self.numbered(item) for item in document]
            case str() if TIME.fullmatch(document):
                return f"time {self.numbers.setdefault(document, len(self.numbers) + 1)}"
        return document

    def in_their_order(self) -> list[int]:
        """The numbers, from the earliest time to the latest."""
        return [number for _, number in sorted(self.numbers.items())]


class Play:
    """Plays the examples of one README, in order, against one service."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=30)
        self.told = Times()
        self.real = Times()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def run(self, example: Example) -> tuple[Answer, Answer, str]:
        """The promised answer and the real one, comparable, and the real one as it came."""
        response = self._client.send(self._request(TIME.sub(self._real_time, example.command)))
        text = shown(response) if "-i" in shlex.split(example.command) else response.text
        return comparable(example.answer, self.told), comparable(text, self.real), text

    def _real_time(self, told: re.Match[str]) -> str:
        number = self.told.numbers.get(told[0])
        return next((time for time, same in self.real.numbers.items() if same == number), told[0])

    def _request(self, command: str) -> httpx.Request:
        """The request that curl would send. Raises ValueError for what is not understood here."""
        words = iter(shlex.split(command.replace("\\\n", " ")))
        method, path, body = None, None, None
        headers = {"accept": "*/*"}
        for word in words:
            match word:
                case "curl" | "-s" | "-i":
                    pass
                case "-X":
                    method = next(words)
                case "-d":
                    body = next(words)
                    headers.setdefault("content-type", "application/x-www-form-urlencoded")
                case "-H":
                    name, _, value = next(words).partition(":")
                    headers[name.lower()] = value.strip()
                case _ if word.startswith(README_ADDRESS):
                    path = word.removeprefix(README_ADDRESS)
                    if re.search("[?&]", path) and f"'{word}'" not in command:
                        raise ValueError(f"some shells read {word} otherwise: it needs quotes")
                case _:
                    raise ValueError(f"the test does not know what curl does with {word}")
        if path is None:
            raise ValueError(f"there is no address below {README_ADDRESS} in {command}")
        method = method or ("GET" if body is None else "POST")
        return self._client.build_request(method, f"/{path}", content=body, headers=headers)


def shown(response: httpx.Response) -> str:
    """The answer as `curl -i` shows it."""
    head = [f"{response.http_version} {response.status_code} {response.reason_phrase}"]
    head += [f"{name}: {value}" for name, value in response.headers.items()]
    return "\n".join(head) + "\n\n" + response.text


def comparable(text: str, times: Times) -> Answer:
    """An answer, of the README or of the service, without what differs in each run."""
    if not text.startswith("HTTP/"):
        return Answer(None, None, times.numbered(json.loads(text)))
    head, _, body = text.partition("\n\n")
    status, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    headers["date"] = "some time"
    if "allow" in headers:  # the order of the methods means nothing
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    return Answer(status, headers, times.numbered(json.loads(body)) if body.strip() else None)


@contextmanager
def serving(database_url: str, folder: Path) -> Iterator[str]:
    """The address of a `segmentd serve` on this database; what it keeps and says lies in the folder."""
    command = [sys.executable, "-m", "segmentd", "serve", "--port", "0", "--workers", "1"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SEGMENTD_") and name != "DATABASE_URL"
    }
    log = folder / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [*command, "--database-url", database_url, "--data-dir", str(folder / "data")],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            answered, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            ready = READY.fullmatch(process.stdout.readline()) if answered else None
            assert ready, f"segmentd did not become ready: {log.read_text()}"
            yield ready[1]
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
