"""Writes the settings of the code into the schema of the chart's values; `make configuration` runs it."""

import json
from pathlib import Path
from typing import Any

import msgspec

from segmentd.config import Settings

SCHEMA = Path("deploy/helm/segmentd/values.schema.json")

# Each has its own value in the chart, is the image's, or is a secret and comes from a reference.
ELSEWHERE = {
    "host",
    "port",
    "grpc_port",
    "grpc_tls_cert",
    "grpc_tls_key",
    "data_dir",
    "database_url",
    # The chart's nodes have a database, and its network policy keeps them apart.
    "follow",
    "copy_from",
    "neighbour_token",
    "neighbour_token_file",
    "admin_token",
    "admin_token_file",
    "jwt_key",
    "jwt_jwks_file",
    "report_store",
    "report_key",
    "report_key_before",
}


def settings() -> dict[str, Any]:
    """The schema of the chart's value `settings`."""
    described = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {key: value for key, value in each.items() if key != "default"}
            for name, each in described.items()
            if name not in ELSEWHERE
        },
    }


if __name__ == "__main__":
    schema = json.loads(SCHEMA.read_text("utf-8"))
    schema["properties"]["settings"] = settings()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
