"""Signatures of models: what a user of the registry may write is not enough to get a model served."""

import hashlib
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from projects import REPOSITORY, Project, script
from servers import registry_of, settings_of

from credit_risk.core.errors import ProjectError
from credit_risk.registry.client import CHAMPION, ONNX_SHA256
from credit_risk.registry.signed_model import SIGNATURE, check_signature, sign

new_key = script(Project(REPOSITORY), "6.production/sign_model.py")["new_key"]


class Files:
    """A registry with one version whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "model.onnx", folder / "reference_rows.json"]
        for file in self.files:
            file.write_text(f"content of {file.name}")
        self.tags: dict[str, str] = {}

    def version(self, number: str) -> Any:
        return SimpleNamespace(number=number, tags=self.tags)

    def download(self, number: str, path: str, into: Path) -> Path:
        del number, into
        return next(file for file in self.files if path.endswith(file.name))

    def tag(self, number: str, key: str, value: str) -> None:
        del number
        self.tags[key] = value

    def check(self, key: str) -> None:
        check_signature(self.version("1"), self.files, key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def signed(files: Any, folder: Path, name: str = "key.pem") -> str:
    public = str(new_key(folder / name))
    sign(files, "1", folder / name)
    return public


def test_signed_files_are_accepted_and_any_other_byte_is_not(files: Files, tmp_path: Path) -> None:
    public = signed(files, tmp_path)
    files.check(public)
    assert len(files.tags[SIGNATURE]) < 5000, "the limit of a tag"
    for file in files.files:
        content = file.read_text()
        file.write_text(f"{content} ")
        with pytest.raises(ProjectError, match="not those that the owner of MODEL_PUBLIC_KEY has signed"):
            files.check(public)
        file.write_text(content)


@pytest.mark.fault("the model is signed with another key", "refused")
def test_a_signature_of_another_key_is_refused(files: Files, tmp_path: Path) -> None:
    public = signed(files, tmp_path)
    signed(files, tmp_path, "another.pem")  # of somebody who may write to the registry
    with pytest.raises(ProjectError, match="has signed"):
        files.check(public)
    files.tags[SIGNATURE] = "{}"
    with pytest.raises(ProjectError, match="has signed"):
        files.check(public)


def test_without_a_key_nothing_is_checked_and_with_one_a_signature_is_needed(files: Files, tmp_path: Path) -> None:
    files.check("")
    with pytest.raises(ProjectError, match="not signed; sign it with"):
        files.check(str(new_key(tmp_path / "key.pem")))


def test_keys_are_private_and_never_overwritten(files: Files, tmp_path: Path) -> None:
    new_key(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    with pytest.raises(ProjectError, match="name a new file"):
        new_key(tmp_path / "key.pem")
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(ProjectError, match=r"no\.pem is no private key"):
        sign(files, "1", tmp_path / "no.pem")  # type: ignore[arg-type]
    files.tags[SIGNATURE] = "{}"
    with pytest.raises(ProjectError, match="not the line that"):
        files.check("not base64!")


def gate(project: Project, monkeypatch: pytest.MonkeyPatch, key: str) -> tuple[bool, str]:
    """What the loading gate says about the signature of version 1."""
    loading, registry = script(project, "5.testing/loading.py"), registry_of(project)
    monkeypatch.setitem(loading["main"].__globals__, "settings", lambda: settings_of(project, model_public_key=key))
    downloaded = object.__new__(loading["DownloadedVersion"])
    downloaded.version, downloaded.folder = registry.version("1"), registry.download("1")
    passed, measured = downloaded.signed()
    return bool(passed), str(measured)


@pytest.mark.fault("model and digest are exchanged together", "refused, if `MODEL_PUBLIC_KEY` is set")
@pytest.mark.integration
def test_model_and_tag_exchanged_together_are_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(project)
    public = signed(registry, tmp_path)
    sync_class = script(project, "6.production/model_sync.py")["ModelSync"]

    def sync(key: str, name: str) -> str:
        return str(sync_class(settings_of(project, model_cache=tmp_path / name, model_public_key=key)).sync_once())

    assert "installed" in sync(public, "signed")
    assert gate(project, monkeypatch, public) == (True, "yes")
    (path,) = project.path("3.experiments", "artifacts").rglob("model.onnx")
    model = onnx.load(path)
    model.doc_string = "exchanged"
    onnx.save(model, path)
    registry.tag("1", ONNX_SHA256, hashlib.sha256(path.read_bytes()).hexdigest())
    assert "installed" in sync("", "unchecked")  # the digest alone does not notice
    with pytest.raises(ProjectError, match="version 1 is rejected: its files are not those that the owner"):
        sync(public, "refused")
    assert registry.version_of(CHAMPION)
    assert not (tmp_path / "refused" / "active.json").exists()
    passed, measured = gate(project, monkeypatch, public)
    assert not passed
    assert "not those that the owner of MODEL_PUBLIC_KEY has signed" in measured
    assert gate(project, monkeypatch, "") == (True, "not required")
