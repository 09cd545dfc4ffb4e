"""Addresses that a server can't listen on are rejected before anything is loaded."""

import argparse
import socket

import pytest

from credit_risk.core.errors import ProjectError
from credit_risk.project.host import add_server_arguments, check_address, free_port


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_server_arguments(parser)
    return parser.parse_args(arguments)


def test_numbers_in_range() -> None:
    assert vars(parse("--port", "65535", "--workers", "2")) == {"host": "127.0.0.1", "port": 65535, "workers": 2}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--port", value) for value in ("99999", "0", "-1", "8e3", "http", "٨٠", "9" * 5_000)),
        *(("--workers", value) for value in ("0", "-2", "1.5", "")),
    ],
)
def test_numbers_out_of_range(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"{option}={value}")
    assert ended.value.code == 2
    assert f"argument {option}: must be a whole number from 1 to " in capsys.readouterr().err


def test_a_free_port() -> None:
    check_address("127.0.0.1", free_port())
    check_address("localhost", free_port())


def test_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ProjectError, match=f"127.0.0.1, port {port}: Address already in use; choose another"):
            check_address("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.invalid", "a" * 70, "x..y", "256.256.256.256"])
def test_an_unknown_host(host: str) -> None:
    with pytest.raises(ProjectError, match="there is no host with this name"):
        check_address(host, 8000)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ProjectError, match=r"can't listen on 192\.0\.2\.1"):
        check_address("192.0.2.1", 8000)
