from segmentd.api.grpc.server import HOT
from segmentd.api.http.hot.calls import LOOKUP
from segmentd.api.http.hot.plain import USER_SEGMENTS
from segmentd.api.http.ofrep.failures import FLAGS
from segmentd.api.http.ofrep.hot import FLAG
from segmentd.observability.metrics import Metrics
from segmentd.serve.tallied import TALLIED


def test_every_hot_call_has_its_tally_and_there_is_room_for_all() -> None:
    assert [*TALLIED] == [
        ("GET", USER_SEGMENTS, "200"),
        ("POST", LOOKUP, "200"),
        ("POST", FLAG, "200"),
        ("POST", FLAGS, "200"),
        ("POST", FLAGS, "304"),
        *(("POST", path, "200") for path in HOT),
    ]
    metrics = Metrics()
    assert len({id(metrics.tally(*tallied)) for tallied in TALLIED}) == len(TALLIED)
