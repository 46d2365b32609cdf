"""The examples of the READMEs: found in the Markdown, run against a real service, compared with its answers.

An example is a block with one curl command and, right after it, a block with the answer. Times differ in each
run, and so do the ids, links and hashes of reports, and positions in the feed. So the README's and the
service's are each numbered in the order in which they come up, and the numbers are compared: what is one time
here has to be one time there. A time in a command means the service's time of the same number. `$link` in a
command is the `url` of the latest answer that had one, the month of the story is the present one, and what
follows a bar is a command of the shell.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

import httpx

Json = object

README_HOST: Final = "localhost:8080"
README_MONTH: Final = '"month": "2026-11"'

BLOCK: Final = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# Not those of 2090 and later: they are asked for, and come back as they were asked for.
TIME: Final = r"20[0-8]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
VARYING: Final = re.compile(
    rf"(?P<time>{TIME})"
    r"|(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|(?P<hash>\b[0-9a-f]{64}\b)"
    r"|(?P<signature>(?<=signature=)[\w-]{43})"
    r"|(?P<position>^[\w-]{55,400}$)"
)
# No two runs have to agree on them.
PASSING_HEADERS: Final = ("date", "age")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the file that it begins in."""

    language: str
    text: str
    line: int
    follows: str
    """The text between this block and the one before it."""


class Example(NamedTuple):
    """A command, and the answer that the README promises, in a block of this language."""

    command: str
    answer: str
    language: str
    line: int


class Answer(NamedTuple):
    """An answer with numbers for what differs; `status` and `headers` only where curl showed them (-i)."""

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
    markdown: str, begins: str = "curl ", answers: tuple[str, ...] = ("json", "http", "csv", "text")
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
        found.append(Example(block.text.strip(), answer.text.strip(), answer.language, block.line))
    return found


def files(markdown: str) -> list[tuple[int, str, str]]:
    """The files that a page makes with `cat`: the line of the command, the name, and the content."""
    form = re.compile(r"cat > (?P<name>\S+) <<'END'\n(?P<content>.*)END\n", re.DOTALL)
    return [
        (block.line, made["name"], made["content"])
        for block in blocks(markdown)
        if (made := form.fullmatch(block.text))
    ]


class Numbers:
    """Numbers what differs in each run, in the order in which one telling brings it up."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def numbered(self, document: Json) -> Json:
        """The document with numbers in the place of what differs."""
        match document:
            case dict():
                return {name: self.numbered(document[name]) for name in sorted(document)}
            case list():
                return [self.numbered(item) for item in document]
            case str():
                return VARYING.sub(self._number, document)
        return document

    def _number(self, found: re.Match[str]) -> str:
        return self.of.setdefault(found[0], f"({found.lastgroup} {len(self.of) + 1})")

    def times_in_their_order(self) -> list[str]:
        """The numbers of the times, from the earliest to the latest time."""
        return [number for text, number in sorted(self.of.items()) if re.fullmatch(TIME, text)]


class Play:
    """Plays the examples of one README, in order, against one service."""

    def __init__(self, address: str) -> None:
        # Links name the host that was called.
        self._client = httpx.Client(base_url=address, headers={"host": README_HOST}, timeout=30)
        self._link = ""
        self.files: dict[str, str] = {}
        self.promised = Numbers()
        self.real = Numbers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def run(self, example: Example) -> tuple[Answer, Answer, str]:
        """The promised answer and the real one, comparable, and the real one as it came."""
        command = VARYING.sub(self._real_one, example.command.replace("\\\n", " "))
        command = command.replace("$link", self._link)
        command = command.replace(README_MONTH, f'"month": "{datetime.now(UTC):%Y-%m}"')
        curl, _, filters = command.partition(" | ")
        response = self._client.send(self._request(curl))
        if url := re.search(r'"url":"([^"]+)"', response.text):
            self._link = url[1]
        text = shown(response) if "-i" in shlex.split(curl) else response.text
        if filters:
            text = subprocess.run(
                ["/bin/sh", "-c", filters], input=text, capture_output=True, text=True, check=True
            ).stdout
        promised = comparable(example.answer, example.language, self.promised)
        return promised, comparable(text, example.language, self.real), text

    def _real_one(self, found: re.Match[str]) -> str:
        number = self.promised.of.get(found[0])
        return next((text for text, same in self.real.of.items() if same == number), found[0])

    def _request(self, command: str) -> httpx.Request:
        """The request that curl would send. Raises ValueError for what is not understood here."""
        words = iter(shlex.split(command))
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
                case "--data-binary":
                    body = self.files[next(words).removeprefix("@")]
                case "-H":
                    name, _, value = next(words).partition(":")
                    headers[name.lower()] = value.strip()
                case _ if (url := word.removeprefix("http://")).startswith(f"{README_HOST}/"):
                    path = url.removeprefix(README_HOST)
                    if re.search("[?&]", path) and not re.search(rf"(['\"]){re.escape(word)}\1", command):
                        raise ValueError(f"some shells read {word} otherwise: it needs quotes")
                case _:
                    raise ValueError(f"the test does not know what curl does with {word}")
        if path is None:
            raise ValueError(f"there is no address of {README_HOST} in {command}")
        method = method or ("GET" if body is None else "POST")
        return self._client.build_request(method, path, content=body, headers=headers)


def shown(response: httpx.Response) -> str:
    """The answer as `curl -i` shows it."""
    head = [f"{response.http_version} {response.status_code} {response.reason_phrase}"]
    head += [f"{name}: {value}" for name, value in response.headers.items()]
    return "\n".join(head) + "\n\n" + response.text


def comparable(text: str, language: str, numbers: Numbers) -> Answer:
    """An answer, of the README or of the service, with numbers for what differs in each run."""
    if language == "json":
        return Answer(None, None, numbers.numbered(json.loads(text)))
    if language != "http":  # how far programs indent their figures is theirs
        return Answer(None, None, numbers.numbered([line.strip() for line in text.splitlines()]))
    head, _, body = text.partition("\n\n")
    status, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    headers |= dict.fromkeys(headers.keys() & PASSING_HEADERS, "passing")
    if "allow" in headers:  # the order of the methods means nothing
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    headers = {name: str(numbers.numbered(value)) for name, value in sorted(headers.items())}
    return Answer(status, headers, numbers.numbered(json.loads(body)) if body.strip() else None)
