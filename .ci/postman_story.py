"""The story of the assignment, request by request, for the Postman collection."""

from postman_steps import D10, D30, D50, VAS, VOICE, Step, change, create, problem, segments

USER = {"user_id": "1000"}
MONTH = 'pm.environment.set("month", new Date().toISOString().slice(0, 7));'
KEEP_REPORT = 'pm.environment.set("report_id", answer.id); pm.environment.set("report_link", answer.url);'

STORY: list[Step] = [
    create(VOICE),
    create(VAS),
    create(D30),
    create(D50),
    Step(
        "A segment is there only once",
        "create_segment",
        body={"slug": VOICE},
        status=(409,),
        tests=problem("segment-exists"),
    ),
    change("Add user 1000 to three segments", "1000", {"add": [VOICE, VAS, D30]}, added=[D30, VAS, VOICE]),
    change("Add user 1002 to two", "1002", {"add": [VOICE, D50]}, added=[D50, VOICE]),
    Step(
        "One unknown segment, and nothing is changed",
        "change_user_segments",
        path=USER,
        body={"add": [D50, "AVITO_NO_SUCH"], "remove": [VOICE]},
        status=(404,),
        tests={
            **problem("segment-not-found"),
            "it is named": 'pm.expect(answer.segments).to.eql(["AVITO_NO_SUCH"]);',
        },
    ),
    Step("The segments of user 1000", "get_user_segments", path=USER, tests=segments(D30, VAS, VOICE)),
    change(
        "Add for two days and remove, in one request",
        "1000",
        {"add": [{"slug": D50, "ttl_seconds": 172800}], "remove": [D30], "reason": "support ticket 4711"},
        added=[D50],
        removed=[D30],
    ),
    Step(
        "The same with the reasons",
        "get_user_segments",
        path=USER,
        query={"detail": "true"},
        tests={
            "the discount ends in two days": (
                f'const term = answer.segments.find((each) => each.slug === "{D50}");\n'
                "pm.expect(new Date(term.until) - new Date(term.since)).to.be.closeTo(172800000, 1000);"
            )
        },
    ),
    Step(
        "Why user 1000 is not in a segment",
        "explain_membership",
        path={**USER, "slug": D30},
        tests={
            "somebody removed the user": (
                'pm.expect([answer.member, answer.because]).to.eql([false, "removed"]);'
            )
        },
    ),
    Step(
        "The history of user 1000",
        "get_history",
        path=USER,
        tests={
            "additions and the removal are there, with the reason": (
                f'const [last] = answer.events.filter((each) => each.segment === "{D30}").slice(-1);\n'
                'pm.expect([last.operation, last.reason]).to.eql(["remove", "support ticket 4711"]);\n'
                "pm.expect(answer.events).to.have.length(5);"
            )
        },
    ),
    create(D10, percent=10, salt="22"),
    Step(
        "Ten per cent of all users, and user 1000 is among them",
        "get_user_segments",
        path=USER,
        tests=segments(D10, D50, VAS, VOICE),
    ),
    Step(
        "Order the report of this month",
        "order_report",
        headers={"Prefer": "wait=30"},
        before=MONTH,
        body={"month": "{{month}}", "user_id": 1000},
        tests={
            "it is done, with its rows": 'pm.expect([answer.status, answer.rows]).to.eql(["done", 6]);',
            "the link is kept for the next requests": KEEP_REPORT,
        },
    ),
    Step(
        "Ask for the report again",
        "get_report",
        path={"report_id": "{{report_id}}"},
        tests={
            "it is the same": 'pm.expect(answer.id).to.eql(pm.environment.get("report_id"));',
        },
    ),
    Step(
        "Fetch the file, without a token",
        "get_report_file",
        path={"report_id": "{{report_id}}"},
        link="{{report_link}}",
        tests={
            "each row is user;segment;operation;time": (
                "const rows = pm.response.text().trimEnd().split(/\\n/);\n"
                "pm.expect(rows).to.have.length(6);\n"
                "const form = /^1000;AVITO_\\w+;(add|remove);[-\\dT:.]+Z$/;\n"
                "rows.forEach((row) => pm.expect(row).to.match(form));"
            ),
        },
    ),
    Step("Delete a segment", "delete_segment", path={"slug": VAS}, status=(204,)),
    Step("User 1000 is out at once", "get_user_segments", path=USER, tests=segments(D10, D50, VOICE)),
]
