from segmentd.api.http.hot.posts import HEADS_REMEMBERED, PlainPost, PlainPosts


def post(*lines: bytes, body: bytes = b"{}", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [b"POST /a/b HTTP/1.1", b"Host: h", b"Content-Length: %d" % size, *lines]
    return b"%b\r\n\r\n%b" % (b"\r\n".join(head), body)


def test_headers_that_came_before_are_read_as_at_first_and_few_are_remembered() -> None:
    posts = PlainPosts({b"x-request-id", b"a"})
    first = posts.read(post(b"A: 1 "))
    assert first is not None
    headers = [(b"content-length", b"2"), (b"a", b"1")]
    assert first == PlainPost(b"/a/b", headers, b"{}")
    assert posts.read(post(b"A: 1 ", body=b"[]")) == PlainPost(b"/a/b", headers, b"[]")
    for other in (b"[1]", b"", b"{}\r\n\r\n"):
        assert posts.read(post(b"A: 1 ", body=other, length=2)) is None
    assert posts.remembered == 1
    for line in (b"X-Request-Id: 1", b"B: %b" % (b"b" * 1024)):
        assert posts.read(post(line)) == posts.read(post(line)) is not None
    for line in (b"Expect: 100-continue", b"B", b"Content-Length: 2", b"Host: i"):
        assert posts.read(post(line)) is posts.read(post(line)) is None
    assert posts.remembered == 1
    for number in range(2 * HEADS_REMEMBERED):
        found = posts.read(post(b"A: %d" % number))
        assert found is not None
        assert dict(found.headers)[b"a"] == b"%d" % number
        assert posts.remembered <= HEADS_REMEMBERED
