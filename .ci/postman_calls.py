"""The calls beside the story of the assignment, and the order of the folders of the collection."""

from postman_steps import D10, D30, D50, LIST, VAS, VOICE, Step, clean, create, problem
from postman_story import STORY

SEGMENTS: list[Step] = [
    Step(
        "List the segments",
        "list_segments",
        query={"limit": "1000"},
        tests={
            "those of the story are there": (
                "const slugs = answer.segments.map((each) => each.slug);\n"
                f"pm.expect(slugs).to.include.members({[D10, D30, D50, VOICE]});\n"
                f"pm.expect(slugs).to.not.include('{VAS}');"
            )
        },
    ),
    Step(
        "Look at one",
        "get_segment",
        path={"slug": D10},
        tests={
            "it has its percentage and its salt": (
                'pm.expect([answer.percent, answer.salt]).to.eql([10, "22"]);'
            )
        },
    ),
    Step(
        "What another percentage would do",
        "preview_percent",
        path={"slug": D10},
        body={"percent": 100},
        tests={
            "it grows, and nobody leaves": (
                "pm.expect([answer.percent_before, answer.percent_after, answer.leave]).to.eql([10, 100, 0]);"
            )
        },
    ),
    Step(
        "Change the percentage",
        "update_segment",
        path={"slug": D10},
        body={"percent": 100, "description": "for everybody"},
        tests={
            "it is 100": 'pm.expect([answer.percent, answer.description]).to.eql([100, "for everybody"]);'
        },
    ),
    Step(
        "Count who is in it",
        "count_members",
        path={"slug": D10},
        tests={"all registered users are": "pm.expect(answer.members).to.eql(answer.registered);"},
    ),
    Step(
        "List who is in a segment",
        "list_members",
        path={"slug": VOICE},
        tests={"both users are": "pm.expect(answer.user_ids).to.eql([1000, 1002]);"},
    ),
    Step(
        "Export who is in a segment",
        "export_segment",
        path={"slug": VOICE},
        query={"format": "csv"},
        tests={
            "a line for each user": (
                "const lines = pm.response.text().trimEnd().split(/\\n/);\n"
                'pm.expect(lines.map((line) => line.split(";", 2).join(";")))'
                '.to.eql(["1000;explicit", "1002;explicit"]);'
            )
        },
    ),
    Step(
        "Rename a segment",
        "update_segment",
        path={"slug": VOICE},
        body={"slug": "AVITO_CALLS"},
        tests={"it has the new name": 'pm.expect(answer.slug).to.eql("AVITO_CALLS");'},
    ),
]

USERS: list[Step] = [
    Step(
        "Register a user",
        "register_user",
        body={"id": 1005, "name": "Anna"},
        status=(201,),
        tests={"with that id": 'pm.expect([answer.id, answer.name]).to.eql([1005, "Anna"]);'},
    ),
    Step(
        "List the users",
        "list_users",
        query={"limit": "1000"},
        tests={
            "the lowest id first": (
                "const ids = answer.users.map((each) => each.id);\n"
                "pm.expect(ids).to.include(1005);\n"
                "pm.expect(ids).to.eql([...ids].sort((one, other) => one - other));"
            )
        },
    ),
    Step(
        "Look at one",
        "get_user",
        path={"user_id": "1005"},
        tests={"it is Anna": 'pm.expect(answer.name).to.eql("Anna");'},
    ),
    Step("Delete a user", "delete_user", path={"user_id": "1005"}, status=(204,)),
    Step(
        "The user is gone",
        "get_user",
        path={"user_id": "1005"},
        status=(404,),
        tests=problem("user-not-found"),
    ),
]

MANY: list[Step] = [
    Step(
        "The segments of many users",
        "lookup",
        body={"user_ids": [1002, 1000]},
        tests={
            "in the order asked": (
                "pm.expect(answer.users.map((each) => each.user_id)).to.eql([1002, 1000]);\n"
                f"pm.expect(answer.users[0].segments).to.eql({['AVITO_CALLS', D10, D50]});"
            )
        },
    ),
    Step(
        "Change many users",
        "change_many_users",
        body={"changes": [{"user_id": 1000, "add": [D30]}, {"user_id": 1002, "add": [D30]}]},
        tests={
            "both are in": (
                f"answer.changes.forEach((each) => pm.expect(each.added).to.eql({[D30]}));\n"
                "pm.expect(answer.changes).to.have.length(2);"
            )
        },
    ),
    create(LIST),
    Step(
        "Import a list",
        "create_import",
        query={"segment": LIST},
        headers={"Content-Type": "text/csv", "Prefer": "wait=30"},
        body="1000\n1002\n1005\n",
        tests={
            "three users were added": (
                'pm.expect([answer.status, answer.added]).to.eql(["done", 3]);\n'
                'pm.environment.set("import_id", answer.id);'
            )
        },
    ),
    Step(
        "List the imports",
        "list_imports",
        tests={
            "the newest first": 'pm.expect(answer.imports[0].id).to.eql(pm.environment.get("import_id"));'
        },
    ),
    Step(
        "Look at one",
        "get_import",
        path={"import_id": "{{import_id}}"},
        tests={"it has ended": 'pm.expect([answer.status, answer.rows]).to.eql(["done", 3]);'},
    ),
    Step(
        "Its bad rows",
        "list_import_errors",
        path={"import_id": "{{import_id}}"},
        tests={"there is none": 'pm.expect(pm.response.text()).to.eql("");'},
    ),
    Step(
        "An import that has ended cannot be stopped",
        "cancel_import",
        path={"import_id": "{{import_id}}"},
        status=(409,),
        tests=problem("import-finished"),
    ),
]

REST: dict[str, list[Step]] = {
    "Feed": [
        Step(
            "Follow what changes",
            "follow_changes",
            query={"after": "begin", "user_id": "1000", "limit": "1000"},
            tests={
                "the changes of user 1000 are there": (
                    f"const mine = answer.changes.filter((each) => each.user_id === 1000);\n"
                    f"pm.expect(mine.map((each) => each.segment)).to.include.members({[D30, D50, LIST]});"
                )
            },
        )
    ],
    "OpenFeature": [
        Step(
            "Evaluate a flag",
            "evaluate_flag",
            path={"key": D10},
            body={"context": {"targetingKey": "1000"}},
            tests={
                "it is on, by its percentage": (
                    'pm.expect([answer.value, answer.reason]).to.eql([true, "SPLIT"]);'
                )
            },
        ),
        Step(
            "Evaluate all flags",
            "evaluate_flags",
            body={"context": {"targetingKey": "1000"}},
            tests={
                "a segment is a flag": (
                    f'pm.expect(answer.flags.map((each) => each.key)).to.include("{D10}");'
                ),
                "there is an ETag": 'pm.response.to.have.header("ETag");',
            },
        ),
        Step(
            "Events need the signature of their link",
            "watch_flags",
            query={"user": "1000", "seen": "0", "until": "1", "signature": "wrong"},
            status=(403,),
            tests={"it is refused": 'pm.expect(answer).to.have.property("errorCode");'},
        ),
    ],
    "Operations": [
        Step(name, operation, tests={"it is ok": 'pm.expect(answer.status).to.eql("ok");'})
        for name, operation in [
            ("Does it live?", "livez"),
            ("Is it ready?", "readyz"),
            ("Does it answer hot reads?", "hot_reads_readyz"),
        ]
    ],
    "Audit": [
        Step(
            "Who changed segments",
            "list_audit_log",
            tests={
                "the newest entry is of this run": (
                    f'pm.expect(answer.entries.map((each) => each.subject)).to.include("{LIST}");'
                )
            },
        )
    ],
}

FOLDERS: dict[str, list[Step]] = {
    "Make room": clean(),
    "The story": STORY,
    "Segments": SEGMENTS,
    "Users": USERS,
    "Many at once": MANY,
    **REST,
    "Clean up": clean(),
}
"""Every folder of the collection, in the order in which they run."""
