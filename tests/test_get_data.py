"""Stage 1: sources of every kind, unchanged, as text; and errors that name file and columns."""

import functools
import gzip
import http.server
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import Project, lone_stage, run_script

from credit_risk.core.files import sha256
from credit_risk.data import sources

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

STAGE = "4.dvc_pipeline/1.get_data.py"
CSV = 'a,b\n1,"x, y"\n007,$1.00 \n,"two\nlines"\n'
ROWS = [{"a": "1", "b": "x, y"}, {"a": "007", "b": "$1.00 "}, {"a": "", "b": "two\nlines"}]


@pytest.fixture
def root(tmp_path: Path, inside: Callable[[Project], None]) -> Project:
    """A folder with nothing but parameters, at a path with special characters."""
    project = lone_stage(tmp_path / "work [old] #1 50%", STAGE, "source")
    inside(project)
    return project


def get(project: Project, *patterns: str) -> int:
    content = json.dumps({"data": {"sources": patterns or ["1.data/source/*"]}})
    project.path("4.dvc_pipeline", "params.yaml").write_text(content)
    return run_script(project, STAGE)


def read_rows(project: Project) -> list[dict[str, Any]]:
    rows: Any = pd.read_parquet(project.path("1.data", "1.raw", "rows.parquet")).to_dict("records")
    return list(rows)


def manifest(project: Project) -> Any:
    return json.loads(project.path("1.data", "1.raw", "manifest.json").read_text())


def test_csv_gz_and_parquet_give_the_same_text(root: Project) -> None:
    source = root.path("1.data", "source")
    (source / "1.csv").write_text(CSV)
    (source / "2.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    pq.write_table(pa.table({"b": ["x, y", None], "a": [1, 7]}), source / "3.parquet")
    assert get(root) == 0
    assert read_rows(root) == [*ROWS, *ROWS, {"a": "1", "b": "x, y"}, {"a": "7", "b": ""}]
    assert [(m["source"], m["rows"]) for m in manifest(root)] == [
        ("1.data/source/1.csv", 3),
        ("1.data/source/2.csv.gz", 3),
        ("1.data/source/3.parquet", 2),
    ]
    assert manifest(root)[0]["bytes"] == len(CSV)
    assert manifest(root)[0]["sha256"] == sha256(source / "1.csv")


def test_a_suffix_in_capitals_is_read(root: Project) -> None:
    source = root.path("1.data", "source")
    (source / "1.CSV").write_text(CSV)
    (source / "2.Csv.GZ").write_bytes(gzip.compress(CSV.encode()))
    pq.write_table(pa.table({"a": ["1"], "b": ["x, y"]}), source / "3.PARQUET")
    assert get(root) == 0
    assert read_rows(root) == [*ROWS, *ROWS, ROWS[0]]


def order(project: Project, *patterns: str) -> list[str]:
    assert get(project, *patterns) == 0
    return [Path(entry["source"]).name for entry in manifest(project)]


def test_sources_are_read_in_the_order_that_is_listed(root: Project) -> None:
    for name in ("1.csv", "2008.csv", "rows.csv"):
        root.path("1.data", "source", name).write_text(CSV)
    folder = "1.data/source"
    assert order(root) == ["1.csv", "2008.csv", "rows.csv"]
    assert order(root, f"{folder}/rows.csv", f"{folder}/2008.csv") == ["rows.csv", "2008.csv"]
    assert order(root, f"{folder}/*", f"{folder}/2008.csv") == ["1.csv", "rows.csv", "2008.csv"]
    assert order(root, f"{folder}/rows.csv", f"{folder}/*") == ["rows.csv", "1.csv", "2008.csv"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1.0, 5290384004.0, float("nan"), None]), ["1", "5290384004", "", ""]),
        (pa.array([True, None]), ["true", ""]),
        (pa.array([Decimal("60000.50")]), ["60000.50"]),
        (pa.array([date(1997, 2, 28)]), ["1997-02-28"]),
        (pa.array([datetime(1997, 2, 28)], pa.timestamp("ns")), ["1997-02-28 00:00:00.000000000"]),  # noqa: DTZ001
        (pa.array(["x", None]).dictionary_encode(), ["x", ""]),
        (pa.array([1.0, 2.0]).dictionary_encode(), ["1", "2"]),
        (pa.nulls(1), [""]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_of_parquet_become_text(root: Project, values: pa.Array, texts: list[str]) -> None:
    pq.write_table(pa.table({"a": values}), root.path("1.data", "source", "1.parquet"))
    assert get(root) == 0
    assert [row["a"] for row in read_rows(root)] == texts


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([[1]]), "list<element: int64>"),
        (pa.array([{"x": 1}]), "struct<x: int64>"),
        (pa.array([b"\xff"]), "binary"),
    ],
    ids=["list", "struct", "binary"],
)
def test_a_column_without_text_is_named_with_its_type(
    root: Project, values: pa.Array, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"a": ["x"], "tags": values}), root.path("1.data", "source", "1.parquet"))
    assert get(root) == 1
    assert f"1.parquet: column 'tags' of type {kind} can't be written as text" in capsys.readouterr().err


def test_a_pandas_index_is_named(root: Project, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"a": ["x", "y"]}, index=[3, 5])
    frame.to_parquet(root.path("1.data", "source", "1.parquet"))
    assert get(root) == 1
    assert "1.parquet has no name for column 2; pandas writes its index so" in capsys.readouterr().err


def test_same_input_same_bytes(root: Project) -> None:
    root.path("1.data", "source", "1.csv").write_text(CSV)
    written = []
    for _ in range(2):
        assert get(root) == 0
        written.append([path.read_bytes() for path in sorted(root.path("1.data", "1.raw").iterdir())])
    assert written[0] == written[1]


def test_a_file_named_twice_is_read_once(root: Project) -> None:
    root.path("1.data", "source", "1.csv").write_text(CSV)
    assert get(root, "1.data/source/1.csv", "1.data/source/*.csv") == 0
    assert read_rows(root) == ROWS


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "source 1.data/source/* matches no file"),
        ({"1.csv": CSV, "2.csv": "a,c\n1,2\n"}, "source 1.data/source/2.csv lacks column b and has the new column c"),
        ({"1.csv": CSV, "2.csv": "a\n1\n"}, "compared with 1.data/source/1.csv"),
        ({"1.csv": "a,b\n"}, "the sources hold no rows"),
        ({"1.csv": ""}, "source 1.data/source/1.csv is damaged or not a table"),
        ({"1.csv": "a,b\n1,2\n1,2,3\n"}, "source 1.data/source/1.csv is damaged or not a table: CSV parse error"),
        ({"1.csv": b"a,b\n1,\xff\n"}, "source 1.data/source/1.csv is damaged or not a table"),
        ({"1.csv": "a,a\n1,2\n"}, "source 1.data/source/1.csv has a column twice: a"),
        ({"1.csv": b"a,b\n1,\xff\n"}, "it is not encoded as UTF-8 after row 0; save it as UTF-8"),
        ({"1.csv": "a\né\n".encode("cp1252")}, "iconv -f CP1252 -t UTF-8 OLD > NEW"),
        ({"1.csv": "é\na\n".encode("cp1252")}, "it is not encoded as UTF-8 after row 0; save it as UTF-8"),
        ({"1.csv": CSV.encode("utf-16")}, "iconv -f UTF-16 -t UTF-8 OLD > NEW"),
        ({"1.csv": "a\tb\n1\t2\n"}, r"csv.reader(sys.stdin, delimiter='\t'))"),
        ({"1.csv": CSV.encode("utf-16")}, "source 1.data/source/1.csv is encoded as UTF-16: save it as UTF-8"),
        ({"1.csv": CSV.encode("utf-16-le")}, "source 1.data/source/1.csv has NUL characters, as UTF-16 has"),
        ({"1.csv": "a;b\n1,5;2\n"}, "source 1.data/source/1.csv is separated by semicolons: save it with commas"),
        ({"1.csv": '"a";"b, c"\n1;2\n'}, "source 1.data/source/1.csv is separated by semicolons"),
        ({"1.csv": '"a;b"\n1,2\n'}, "CSV parse error"),
        ({"1.csv": "sep=;\na;b\n1;2\n"}, "source 1.data/source/1.csv is separated by semicolons"),
        ({"1.csv": "a\tb\n1\t2\n"}, "source 1.data/source/1.csv is separated by tabs"),
        ({"1.csv": CSV, "2.csv": "A,b\n1,2\n"}, "source 1.data/source/2.csv has column A instead of a, compared with"),
        ({"1.csv": CSV, "2.csv": " a ,b\n1,2\n"}, "source 1.data/source/2.csv has column  a  instead of a, compared"),
        ({"1.csv": ",a,b\n0,1,2\n"}, "source 1.data/source/1.csv has no name for column 1"),
        ({"1.csv": "a,b,,\n0,1,,\n"}, "source 1.data/source/1.csv has no name for column 3"),
        ({"1.csv": gzip.compress(CSV.encode())}, "source 1.data/source/1.csv is compressed by gzip: name it .csv.gz"),
        ({"1.csv": b"PK\x03\x04rest"}, "source 1.data/source/1.csv is a ZIP or Excel file, not a CSV"),
        ({"1.csv": f"a,b\n{'1,2' * 10**7}\n"}, "has a row of more than 8 MiB after row 0; is a quotation mark"),
        ({"1.csv": 'a,b\n1,2\n3,"' + "4,5\n" * 5 * 10**6}, "after row 1; is a quotation mark not closed there?"),
        (
            {"1.csv.gz": gzip.compress(CSV.encode() * 99)[:-20]},
            "source 1.data/source/1.csv.gz is damaged or not a table",
        ),
        (
            {"1.csv.gz": gzip.compress(CSV.encode())[:10] + b"\xff" * 99},
            "source 1.data/source/1.csv.gz is damaged or not a table: Error -3 while decompressing data",
        ),
        ({"1.csv.gz": CSV}, "source 1.data/source/1.csv.gz is damaged or not a table"),
        ({"1.parquet": CSV}, "source 1.data/source/1.parquet is damaged or not a table"),
        ({"notes.txt": CSV}, "source 1.data/source/notes.txt is not one of .csv, .csv.gz, .parquet"),
    ],
    ids=itertools.count(),
)
def test_bad_sources_are_named(
    root: Project, files: dict[str, str | bytes], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in files.items():
        root.path("1.data", "source", name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert get(root) == 1
    error = capsys.readouterr().err
    assert error.startswith("stage 1: ")
    assert error.count("\n") == 1
    assert message in error
    raw = root.path("1.data", "1.raw")
    assert not raw.exists() or list(raw.iterdir()) == []


def test_hidden_files_and_those_of_dvc_are_no_sources(root: Project) -> None:
    root.path("1.data", "source", "1.csv").write_text(CSV)
    for name in (".DS_Store", ".gitignore", "1.csv.dvc"):
        root.path("1.data", "source", name).write_text("")
    assert get(root) == 0
    assert len(manifest(root)) == 1


def test_a_long_row_in_an_error_is_cut(root: Project, capsys: pytest.CaptureFixture[str]) -> None:
    root.path("1.data", "source", "1.csv").write_text(f"a,b\n1,2,{'private' * 1000}\n")
    assert get(root) == 1
    error = capsys.readouterr().err
    assert "Expected 2 columns, got 3" in error
    assert len(error) < 500


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files with an ETag of their content's hash, as object stores do."""

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{hash(path.read_bytes())}"')
        super().end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server on loopback and the folder it serves."""
    folder = tmp_path_factory.mktemp("web")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_http_source_and_its_refresh(root: Project, web: tuple[str, Path]) -> None:
    url, folder = web
    (folder / "rows.csv").write_text(CSV)
    assert get(root, f"{url}/rows.csv") == 0
    assert read_rows(root) == ROWS
    (entry,) = manifest(root)
    assert entry["source"] == f"{url}/rows.csv"
    assert entry["tag"]
    (source,) = sources.expand([f"{url}/rows.csv"])
    assert not sources.changed(source, entry)
    (folder / "rows.csv").write_text(CSV + "8,9\n")
    (source,) = sources.expand([f"{url}/rows.csv"])
    assert sources.changed(source, entry)


def test_http_source_that_is_not_there(
    root: Project, web: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(root, f"{web[0]}/nothing.csv") == 1
    assert "nothing.csv matches no file" in capsys.readouterr().err
    assert get(root, "http://127.0.0.1:9/rows.csv") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def s3(s3_server: "ThreadedMotoServer") -> Any:
    """A client of an S3 service on loopback, with a bucket "rows"."""
    import boto3

    host, port = s3_server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="rows")
    return client


@pytest.mark.integration
def test_s3_glob_and_its_refresh(root: Project, s3: Any) -> None:
    s3.put_object(Bucket="rows", Key="2006/a.csv", Body=CSV.encode())
    s3.put_object(Bucket="rows", Key="2006/b.csv.gz", Body=gzip.compress(CSV.encode()))
    assert get(root, "s3://rows/2006/*") == 0
    assert read_rows(root) == ROWS * 2
    entries = {entry["source"]: entry for entry in manifest(root)}
    assert list(entries) == ["s3://rows/2006/a.csv", "s3://rows/2006/b.csv.gz"]
    found = sources.expand(["s3://rows/2006/*"])
    assert not any(sources.changed(source, entries[source.name]) for source in found)
    s3.put_object(Bucket="rows", Key="2006/a.csv", Body=b"a,b\n1,2\n")
    for source in found:
        source.filesystem.invalidate_cache()
    assert [sources.changed(source, entries[source.name]) for source in found] == [True, False]


def test_secrets_in_a_url_are_not_shown() -> None:
    assert sources.public("https://me:secret@host/rows.csv?token=secret") == "https://host/rows.csv"
    assert sources.public("s3://bucket/key") == "s3://bucket/key"


@pytest.mark.integration
def test_a_source_that_dvc_has_imported_is_read_once_and_again_when_it_is_updated(
    fresh: Project, inside: Callable[[Project], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    def ran() -> bool:
        return bool(repo.reproduce("4.dvc_pipeline/dvc.yaml:get_data", single_item=True))

    inside(fresh)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(fresh.root)
    for file in fresh.path("1.data", "source").iterdir():
        file.unlink()
    remote = tmp_path / "remote.csv.gz"
    remote.write_bytes(gzip.compress(CSV.encode()))
    with Repo() as repo:
        repo.imp_url(str(remote), "1.data/source/rows.csv.gz")
        assert ran()
        assert read_rows(fresh) == ROWS
        assert not ran()
        remote.write_bytes(gzip.compress(b"a,b\n8,9\n"))
        assert not ran()
        repo.update(["1.data/source/rows.csv.gz.dvc"])
        assert ran()
        assert read_rows(fresh) == [{"a": "8", "b": "9"}]
