"""The embedded registry: a SQLite file, and a folder `artifacts` next to it.

MLflow stores absolute addresses of artifacts. After a checkout was moved or copied they would still point to the old
place, where a copy must never write. So the addresses are corrected whenever the registry is opened.
"""

import shlex
import sqlite3
import sys
from contextlib import closing
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from credit_risk.core.errors import ProjectError

_SCHEME = "sqlite:///"
_COLUMNS = (  # MLflow's tables and columns with addresses of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def is_embedded(uri: str) -> bool:
    """Whether a tracking URI is a SQLite file."""
    return uri.startswith("sqlite:")


def database_path(uri: str) -> Path:
    """The SQLite file of a tracking URI."""
    return Path(unquote(uri.removeprefix(_SCHEME).partition("?")[0])).absolute()


def artifact_folder(uri: str) -> Path:
    """Where an embedded registry keeps its artifacts."""
    return database_path(uri).parent / "artifacts"


def prepare(uri: str) -> str:
    """Makes the database's folder; corrects the addresses if the database was moved or copied.

    Returns:
        The old address of the artifacts if it was corrected, else an empty string.

    Raises:
        ProjectError: the database can't be opened, or its artifacts were left behind.
    """
    database = database_path(uri)
    _allow_percent_sign()
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        return _correct_addresses(database, artifact_folder(uri)) if database.exists() else ""
    except (OSError, sqlite3.Error) as error:
        raise ProjectError(f"the registry at {uri} can't be opened; check MLFLOW_TRACKING_URI ({error})") from error


def schema_problem(uri: str, error: BaseException) -> str:
    """What to do about a database whose tables another version of MLflow has made; empty for any other error."""
    if "database schema" not in str(error) and "Can't locate revision" not in str(error):
        return ""
    database, known = database_path(uri), files("mlflow") / "store" / "db_migrations" / "versions"
    with closing(sqlite3.connect(database)) as connection:
        (revision,) = connection.execute("select version_num from alembic_version").fetchone() or ("none",)
    if not any(path.name.startswith(f"{revision}_") for path in known.iterdir()):
        return (
            f"{database} was made by a newer MLflow than {version('mlflow')}, which is installed; install that one, "
            "or move the file away to begin with an empty registry"
        )
    copy, upgrade = (shlex.join(words) for words in (["cp", str(database), f"{database}.copy"], ["upgrade", uri]))
    return f"{database} was made by an older MLflow; copy and upgrade it: {copy} && uv run mlflow db {upgrade}"


@cache
def _allow_percent_sign() -> None:
    """Lets MLflow create its tables when the folder that it is installed in has a % in its path.

    MLflow passes that path to alembic, whose configuration file gives % a meaning, without escaping it.
    """
    if "%" not in sys.prefix:
        return
    from alembic.config import Config

    set_main_option = Config.set_main_option

    def escaped(self: Config, name: str, value: str) -> None:
        set_main_option(self, name, value.replace("%", "%%") if name == "script_location" else value)

    Config.set_main_option = escaped  # type: ignore[method-assign]


def _correct_addresses(database: Path, folder: Path) -> str:
    here, old = folder.as_uri(), ""
    with closing(sqlite3.connect(database)) as connection, connection:
        if not connection.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
            return old
        query = "select distinct artifact_location from experiments where artifact_location like 'file:%/artifacts'"
        for (stored,) in connection.execute(query).fetchall():
            if stored == here:
                continue
            if not folder.is_dir() and connection.execute("select 1 from runs").fetchone():
                raise ProjectError(
                    f"{database} has its artifacts in {stored}, outside this project; copy that folder to {folder}, "
                    f"or delete {database} to begin with an empty registry"
                )
            old = stored
            for table, column in _COLUMNS:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column} || '/', 1, ?) = ?",  # noqa: S608 (constants of this module)
                    (here, len(stored) + 1, len(stored) + 1, f"{stored}/"),
                )
    return old
