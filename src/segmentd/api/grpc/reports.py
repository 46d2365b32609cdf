"""The service Reports."""

from collections.abc import Mapping
from typing import Final

from segmentd.api.grpc import values
from segmentd.api.grpc.calls import Call, Method
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.reports import Period, ReportOrder, Status, read_report_id
from segmentd.reports.links import SignedReport

STATUSES: Final[Mapping[Status, pb.Report.Status.ValueType]] = {
    Status.PENDING: pb.Report.STATUS_PENDING,
    Status.RUNNING: pb.Report.STATUS_RUNNING,
    Status.DONE: pb.Report.STATUS_DONE,
    Status.FAILED: pb.Report.STATUS_FAILED,
}


class Reports:
    """Its methods; `url` is where clients reach the HTTP door, which the links of reports lead to."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.methods: Mapping[str, Method] = {
            "OrderReport": Method("order_report", self.order_report),
            "GetReport": Method("get_report", self.get_report),
        }

    async def order_report(self, call: Call, request: pb.OrderReportRequest) -> pb.Report:
        """Orders a report."""
        order = ReportOrder(
            _period(request),
            values.user_id(request.user_id) if request.HasField("user_id") else None,
            values.slug(request.segment, "segment") if request.HasField("segment") else None,
            request.header,
        )
        return self._message(await call.service.reports.order(order, call.actor))

    async def get_report(self, call: Call, request: pb.GetReportRequest) -> pb.Report:
        """The status of a report."""
        return self._message(await call.service.reports.get(read_report_id(request.id)))

    def _message(self, signed: SignedReport) -> pb.Report:
        report, signature = signed
        return pb.Report(
            id=str(report.id),
            status=STATUSES[report.status],
            url=f"{self._url}/api/v1/reports/{report.id}/file?signature={signature}",
            rows=report.rows,
            sha256=report.sha256,
            as_of=None if report.as_of is None else values.stamp(report.as_of),
            created_at=values.stamp(report.created_at),
            expires_at=values.stamp(report.expires_at),
            reason=report.reason,
        )


def _period(request: pb.OrderReportRequest) -> Period:
    match request.WhichOneof("period"):
        case "month":
            return Period.of_month(request.month)
        case "range":
            given = request.range
            if not (given.HasField("from") and given.HasField("to")):
                raise Invalid(Fault("/range", "needs both from and to"))
            return Period(
                values.instant(getattr(given, "from"), "range/from"),
                values.instant(given.to, "range/to"),
                "/range/from",
            )
        case _:
            raise Invalid(Fault("/period", "name a month, or a range"))
