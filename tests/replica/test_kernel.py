"""The kernel in C, the one on NumPy, SQL and the rule itself decide alike."""

import gc
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segmentd.domain.bucketing import BUCKETS, buckets
from segmentd.domain.decisions import Decision
from segmentd.domain.identifiers import INT64_MAX, INT64_MIN, UserId
from segmentd.domain.instants import rfc3339
from segmentd.replica.catalog import Catalog, CatalogState, Form
from segmentd.replica.kernel import Kernels, Plan
from segmentd.storage import memberships, replication
from segmentd.storage.database import Database
from segmentd.storage.replication import ReplicatedSegment
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.kernels import KERNELS, Override, needs_compiled, state_of
from tests.support.rows import Rows

NOW = 1_000_000
MOST_ID = 2**30 - 1
ONE_SEGMENT = CatalogState(1, [ReplicatedSegment(1, "s", 0, None)])
# `make proof` asks for more (tests/repository/test_kernel_build.py).
EXAMPLES = int(os.environ.get("KERNEL_EXAMPLES", "40"))
FORMS = [Form(bytes, b","), Form(lambda slug: slug[1:-1], b" -- "), Form(lambda slug: slug[:2], b"")]

user_ids = st.one_of(
    st.integers(1, INT64_MAX), st.sampled_from([1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62, INT64_MAX])
)
salts = st.one_of(st.integers(INT64_MIN, INT64_MAX), st.sampled_from([0, -1, INT64_MIN, INT64_MAX]))
thresholds = st.one_of(
    st.none(), st.integers(0, BUCKETS), st.sampled_from([0, 1, BUCKETS // 2, BUCKETS - 1, BUCKETS])
)
# Of living segments and of deleted ones.
segment_ids = st.one_of(st.integers(0, 40), st.sampled_from([MOST_ID - 1, MOST_ID]))
ends = st.one_of(st.none(), st.sampled_from([INT64_MIN, -1, NOW - 1, NOW, NOW + 1, INT64_MAX]))
overrides = st.lists(
    st.builds(Override, segment_ids, st.booleans(), ends), max_size=25, unique_by=lambda each: each.segment_id
)


@st.composite
def catalogs(draw: st.DrawFn) -> CatalogState:
    ids = draw(st.lists(segment_ids, max_size=25, unique=True))
    slugs = Random(draw(st.integers(0, 99))).sample([f"s-{n}" * (1 + n % 9) for n in range(25)], len(ids))
    return CatalogState(
        1,
        [
            ReplicatedSegment(segment_id, slug, draw(salts), draw(thresholds))
            for segment_id, slug in zip(ids, slugs, strict=True)
        ],
    )


def decided(segment: ReplicatedSegment, user_id: int, of_segment: Mapping[int, Override]) -> Decision:
    """By the rule."""
    override = of_segment.get(segment.id)
    if override is not None and (override.end is None or override.end > NOW):
        return Decision.INCLUDED if override.included else Decision.EXCLUDED
    if segment.threshold is None:
        return Decision.NONE
    [bucket] = buckets(np.array([user_id]), np.array([segment.salt])).tolist()
    return Decision.COVERED if bucket < segment.threshold else Decision.UNCOVERED


@settings(max_examples=EXAMPLES)
@example(ONE_SEGMENT, [(1, [Override(1, end=NOW)]), (2, [Override(1, end=NOW + 1)])])
@given(catalogs(), st.lists(st.tuples(user_ids, st.one_of(st.none(), overrides)), max_size=4))
def test_each_kernel_decides_and_joins_by_the_rule(
    catalog: CatalogState, users: Sequence[tuple[int, Sequence[Override] | None]]
) -> None:
    ranked = sorted(catalog.segments, key=lambda segment: segment.slug.encode())
    for kernels in KERNELS:
        made = Catalog(catalog, kernels)
        states = [None if given is None else state_of(given) for _, given in users]
        for (user_id, given_overrides), state in zip(users, states, strict=True):
            of_segment = {override.segment_id: override for override in given_overrides or ()}
            decisions = [decided(segment, user_id, of_segment) for segment in ranked]
            members = [segment.slug for segment, each in zip(ranked, decisions, strict=True) if each.member]
            quoted = [f'"{slug}"'.encode() for slug in members]

            assert made.decisions(user_id, state, NOW) == (made.slugs, bytes(decisions))
            assert made.names(user_id, state, NOW) == members
            for form in FORMS:
                joined = form.separator.join(map(form.piece, quoted))
                assert made.kernel(form).join(user_id, state, NOW, b"<", b">>") == b"<%b>>" % joined
            for segment, decision in zip(ranked, decisions, strict=True):
                assert made.decision(segment.slug.encode(), user_id, state, NOW) is decision
            assert made.decision(b"of-none", user_id, state, NOW) is None
        alone = [made.kernel(FORMS[0]).join(*user, NOW, b"", b"") for user in _with(users, states)]
        assert made.segments_of_slice([user_id for user_id, _ in users], states, NOW) == alone


def _with(
    users: Sequence[tuple[int, object]], states: Sequence[bytes | None]
) -> Sequence[tuple[int, bytes | None]]:
    return [(user_id, state) for (user_id, _), state in zip(users, states, strict=True)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A state that was cut, stretched or overwritten, or any bytes."""
    state = bytearray(state_of(draw(overrides)))
    match draw(st.sampled_from(["cut", "stretched", "overwritten", "any"])):
        case "cut":
            return bytes(state[: draw(st.integers(0, len(state)))])
        case "stretched":
            return bytes(state) + draw(st.binary(max_size=20))
        case "overwritten":
            state[draw(st.integers(0, len(state) - 1))] = draw(st.integers(0, 255))
            return bytes(state)
        case _:
            return draw(st.binary(max_size=60))


@settings(max_examples=EXAMPLES)
@given(catalogs(), damaged())
def test_a_state_that_is_torn_is_refused_by_each_kernel_and_any_other_is_read_alike(
    catalog: CatalogState, state: bytes
) -> None:
    is_whole = is_as_long_as_it_says(state)
    found = []
    for kernels in KERNELS:
        kernel = Catalog(catalog, kernels).kernel(FORMS[0])
        if is_whole:
            found.append((kernel.codes(7, state, NOW), kernel.join(7, state, NOW, b"", b"")))
            continue
        with pytest.raises(ValueError, match="torn"):
            kernel.codes(7, state, NOW)
        with pytest.raises(ValueError, match="torn"):
            kernel.join(7, state, NOW, b"", b"")
        with pytest.raises(ValueError, match="torn"):
            kernel.join_many([6, 7, 8], [None, state, None], NOW)
        # The next user is not decided by what was read of it.
        fresh = Catalog(catalog, kernels).kernel(FORMS[0])
        assert kernel.codes(8, None, NOW) == fresh.codes(8, None, NOW)
    assert all(each == found[0] for each in found)


def is_as_long_as_it_says(state: bytes) -> bool:
    if len(state) < 8:
        return False
    count = int.from_bytes(state[:8], "big") % 2**20
    words = struct.unpack(f">{count}I", state[8 : 8 + 4 * count]) if len(state) >= 8 + 4 * count else None
    return words is not None and len(state) == 8 + 4 * count + 8 * sum(word >> 30 & 1 for word in words)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
async def test_kernels_decide_as_sql_does(
    api: Api, database: Database, rows: Rows, clock: Clock, kernels: type[Kernels]
) -> None:
    rows.run(
        "SELECT create_segment('S' || n, '', (ARRAY[NULL, 0, 30, 99.9999, 100])[1 + n %% 5], n)"
        " FROM generate_series(1, 60) n"
    )
    chance, begun = Random(9), clock.now()
    for user_id in (1, 2, 2**31, 2**32, 2**62, INT64_MAX):
        chosen = chance.sample(range(1, 61), 40)
        terms = [{"slug": f"S{n}", "until": rfc3339(begun + timedelta(days=n))} for n in chosen[:15]]
        await api.change(user_id, add=[*terms, *(f"S{n}" for n in chosen[15:25])])
        await api.change(user_id, remove=[f"S{n}" for n in chosen[25:]])
    clock.advance(seconds=30 * 86_400 + 1)
    async with replication.reading(database) as reading:
        catalog = Catalog(CatalogState(1, await reading.segments()), kernels)
        users = await reading.states([UserId(each) for each in (1, 2, 2**31, 2**32, 2**62, INT64_MAX)])
    assert len(users) == 6
    now = int(clock.now().timestamp() * 1_000_000)
    for user in users:
        expected = await memberships.decisions(database, user.user_id)
        assert catalog.decisions(user.user_id, user.state, now) == expected
        assert {*expected.codes} == {*Decision}


@needs_compiled
def test_a_kernel_in_c_is_not_made_of_parts_that_do_not_fit_together() -> None:
    from segmentd.replica._kernel import Kernel  # noqa: PLC0415 - it may be missing

    def words(*numbers: int) -> bytes:
        return struct.pack(f"={len(numbers)}I", *numbers)

    # Two segments, one of them with a percentage.
    fit: list[Any] = [
        *(bytes(2), words(4, 9), words(1, 0), words(1, 2, 3, 4, 5), words(1)),
        *(b",A,BB", words(2, 5), 1),
    ]
    make: Callable[..., object] = Kernel
    make(*fit)
    for place, wrong in [
        (0, bytes(1)),
        (0, bytes(3)),
        (1, words(4)),
        (1, words(9, 4)),
        (1, words(4, 4)),
        (2, words(1, 2)),
        (2, words(1, 0, 0)),
        (3, words(1, 2, 3, 4)),
        (3, words(1, 2, 3, 4, 5) + b"1"),
        (4, words(2)),
        (4, words(1, 1)),
        (4, words(1) + b"1"),
        (5, b",A,B"),
        (6, words(2, 6)),
        (6, words(2, 1)),
        (6, words(2)),
        (6, words(0, 5)),
        (7, -1),
        (7, 3),
    ]:
        with pytest.raises(ValueError, match="do not fit"):
            make(*fit[:place], wrong, *fit[place + 1 :])
    unfit: list[list[Any]] = [[], fit[:-1], [*fit[:-1], "1"], [None, *fit[1:]]]
    for arguments in unfit:
        with pytest.raises(TypeError):
            make(*arguments)


@needs_compiled
def test_a_kernel_in_c_refuses_arguments_of_other_types_and_stays_usable() -> None:
    made = Catalog(CatalogState(1, [ReplicatedSegment(1, "A", 5, BUCKETS)]), KERNELS[-1])
    kernel = made.kernel(FORMS[0])
    wrong: list[Any] = [
        (1, None),
        (1, None, 0, 0),
        ("1", None, 0),
        (1, "state", 0),
        (1, bytearray(8), 0),
        (1, None, 0.5),
    ]
    for arguments in wrong:
        with pytest.raises(TypeError):
            kernel.codes(*arguments)
    wrong = [(1, None, 0), (1, None, 0, "", b""), (1, None, 0, b"", None)]
    for arguments in wrong:
        with pytest.raises(TypeError):
            kernel.join(*arguments)
    for too_large in (2**63, -(2**63) - 1):
        with pytest.raises(OverflowError):
            kernel.codes(too_large, None, 0)
        with pytest.raises(OverflowError):
            kernel.codes(1, None, too_large)
    del made
    gc.collect()
    assert kernel.join(1, None, 0, b"", b"") == b'"A"'


def test_the_plan_leaves_out_percentages_that_cover_nobody() -> None:
    plan = Plan.of([ReplicatedSegment(n, f"{n}", n, limit) for n, limit in enumerate((None, 0, 5, BUCKETS))])
    assert plan == ([0, 1, 2, 3], bytes([0, 1, 1, 1]), [2, 3], [2, 3], [5, BUCKETS])
