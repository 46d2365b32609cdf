import dataclasses
import re
from pathlib import Path

import pytest

from segmentd.cli.flags import Flags
from segmentd.config import PREFIX, SECRETS, ConfigurationError, Settings, described, hidden, load

URL = "postgresql://me:a-secret@host:5432/db"


def refusal(flags: dict[str, object], environment: dict[str, str]) -> str:
    """The one line with which settings are refused."""
    with pytest.raises(ConfigurationError) as refused:
        load(flags, environment)
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_with_nothing_set_every_value_is_the_default() -> None:
    configuration = load({}, {})
    assert configuration.settings == Settings()
    assert set(configuration.sources.values()) == {"default"}
    assert (configuration.settings.host, configuration.settings.port) == ("127.0.0.1", 8080)
    assert configuration.settings.data_dir == "data"
    assert configuration.settings.workers == 0


def test_a_flag_outweighs_the_environment_that_the_file_and_that_the_default(tmp_path: Path) -> None:
    file = tmp_path / "segmentd.toml"
    file.write_text('host = "file"\nport = 1\nworkers = 1\n')
    flags = {"config": str(file), "host": "flag"}
    environment = {"SEGMENTD_HOST": "environment", "SEGMENTD_PORT": "2"}

    settings, sources = load(flags, environment)

    assert (settings.host, sources["host"]) == ("flag", "--host")
    assert (settings.port, sources["port"]) == (2, "SEGMENTD_PORT")
    assert (settings.workers, sources["workers"]) == (1, str(file))
    assert (settings.data_dir, sources["data_dir"]) == ("data", "default")


def test_a_database_url_is_taken_from_where_most_platforms_put_it() -> None:
    settings, sources = load({}, {"DATABASE_URL": URL})
    assert (settings.database_url, sources["database_url"]) == (URL, "DATABASE_URL")


def test_anything_else_outweighs_the_plain_database_url(tmp_path: Path) -> None:
    file = tmp_path / "segmentd.toml"
    file.write_text('database_url = "postgresql://file"\n')
    plain = {"DATABASE_URL": "postgresql://plain"}
    own = {"SEGMENTD_DATABASE_URL": "postgresql://own"}

    def taken(flags: dict[str, object], environment: dict[str, str]) -> str | None:
        return load(flags, environment).settings.database_url

    assert taken({}, plain | own) == "postgresql://own"
    assert taken({"config": str(file)}, plain) == "postgresql://file"
    assert taken({"config": str(file)}, plain | own) == "postgresql://own"
    assert taken({"database_url": "postgresql://flag"}, plain | own) == "postgresql://flag"


def test_the_environment_can_name_the_file_and_a_flag_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("port = 1\n")
    other.write_text("port = 2\n")
    assert load({}, {"SEGMENTD_CONFIG": str(one)}).settings.port == 1
    assert load({"config": str(other)}, {"SEGMENTD_CONFIG": str(one)}).settings.port == 2


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load({}, {f"{PREFIX}PORT": "", f"{PREFIX}DATABASE_URL": "", "DATABASE_URL": ""}) == load({}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "abc"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "1.5"),
        ("host", ""),
        ("workers", "-1"),
        ("data_dir", ""),
        ("database_url", ""),
        ("pool_size", "0"),
        ("log_level", "loud"),
        ("shutdown_seconds", "nan"),
    ],
)
def test_the_error_for_a_bad_value_names_its_source(name: str, value: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert refusal({name: value}, {}).startswith(f"{flag}: ")
    if value:
        variable = PREFIX + name.upper()
        assert refusal({}, {variable: value}).startswith(f"{variable}: '{value}' is not acceptable: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port = = 1", "cannot read the configuration"),
        ('port = "many"', "'many' is not acceptable"),
        ("port = 99999", "'99999' is not acceptable"),
        ('colour = "red"', "there is no setting named colour"),
        ("[server]\nport = 1", "there is no setting named server"),
        ("report_key = 1", "is not acceptable"),
    ],
)
def test_the_error_names_a_bad_file(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "segmentd.toml"
    file.write_text(text)
    line = refusal({"config": str(file)}, {})
    assert str(file) in line
    assert expected in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "segmentd.toml"
    if content is not None:
        file.write_bytes(content)
    assert refusal({"config": str(file)}, {}).startswith(f"cannot read the configuration {file}: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://me:***@host:5432/db"),
        (
            "postgres://me:a-secret@[::1]:5432/db?sslmode=require",
            "postgres://me:***@[::1]:5432/db?sslmode=require",
        ),
        ("postgresql://me:a-sec@ret@host/db", "***"),
        ("postgresql://me:a-secret@%2Ftmp%2Fsocket/db", "postgresql://me:***@%2Ftmp%2Fsocket/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host", "postgresql://host"),
        ("postgresql:///db?host=/tmp", "postgresql:///db?host=/tmp"),
        ("postgresql://me:a-sec?ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:a-sec:ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:a-sec#ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:a-sec,ret@one,two:5433/db", "postgresql://me:***@one,two:5433/db"),
        ("postgresql://host/db?user=me&password=a-secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?%70assword=a-secret", "postgresql://host/db?%70assword=***"),
        (
            "postgresql://host/db?sslmode=require&sslpassword=a-secret",
            "postgresql://host/db?sslmode=require&sslpassword=***",
        ),
        ("postgresql://host/db?options=-c%20my.key%3Da-secret", "postgresql://host/db?options=***"),
        ("postgresql://me:12?user=/secret@host/db", "postgresql://me:12?user=***"),
        ("postgresql://host/db?sslPassword=a-secret", "***"),
        ("postgresql://me:a-sec/ret@host/db", "***"),
        ("postgresql://me:12/secret@host/db", "***"),
        ("postgresql://me:a-secret@host,you:a-secret@other/db", "***"),
        ("postgresql://me:a@secret%40host/db", "***"),
        ("postgresql://me:a-sec%zzret@host/db", "***"),
        ("host=me:a-secret@host", "***"),
        ("service=mine password=a-secret", "***"),
        ("postgresql://[me:a-secret@host/db", "postgresql://[me:***@host/db"),
        ("postgres//me:a-secret@host/db", "***"),
        ("mysql://me:a-secret@host/db", "***"),
        ("host=host password=a-secret", "***"),
        ("a-secret", "***"),
    ],
)
def test_a_database_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hidden("database_url", url) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown_as"),
    [
        ("report_store", "s3://bucket/reports", "s3://bucket/reports"),
        ("report_store", "s3://key:a-secret@bucket/reports", "s3:***"),
        ("report_store", "s3://key:a-sec/ret@bucket/reports", "s3:***"),
        ("report_store", "https://account.example/container?sig=a-secret", "https:***"),
        ("host", "postgresql://me:a-secret@host/db", "***"),
        ("data_dir", "host=host user=me password=a-secret", "host=host user=me ***"),
        ("data_dir", "/var/lib/segmentd", "/var/lib/segmentd"),
    ],
)
def test_a_secret_in_another_setting_is_not_shown_either(name: str, value: str, shown_as: str) -> None:
    assert hidden(name, value) == shown_as


def test_no_secret_is_shown_nor_quoted_in_an_error() -> None:
    configuration = load({}, {"DATABASE_URL": URL, "SEGMENTD_REPORT_KEY": "a-secret" * 8})
    assert not re.search("secret", repr([*configuration.shown()]))
    assert "secret" not in refusal({}, {"SEGMENTD_REPORT_KEY": "a-secret"})


def test_every_setting_is_shown_and_described() -> None:
    fields = Settings.__struct_fields__
    assert [name for name, _, _ in load({}, {}).shown()] == [*fields]
    assert [variable for _, variable, _, _ in described()] == [PREFIX + name.upper() for name in fields]
    for flag, _, _, description in described():
        assert description.endswith("."), flag
    assert {*fields} >= SECRETS
    assert {field.name for field in dataclasses.fields(Flags)} == {*fields, "config"}
