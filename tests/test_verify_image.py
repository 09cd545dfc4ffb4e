"""Servers start only images that the pinned workflow has built: the program of the launch template."""

import subprocess
from pathlib import Path

import pytest
import verifier
from verifier import SIGNER, attestation, digest

MANIFEST = '{\n  "schemaVersion": 2\n}'
IMAGE = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/team/api@{digest(MANIFEST)}"
AWS_CLI = f"""#!/bin/sh
[ "$*" = "ecr batch-get-image --repository-name team/api --image-ids imageDigest={digest(MANIFEST)} \\
--query images[0].imageManifest --output text" ] || exit 254
cat "$(dirname "$0")/manifest"; echo
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A server with the image's manifest in its registry."""
    for name, text in (("aws", AWS_CLI), ("gh", verifier.GH)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "manifest").write_text(MANIFEST)
    return tmp_path


def verify(server: Path, repository: str = "owner/name", image: str = IMAGE) -> tuple[int, str]:
    """The exit code, and what the program says in one line."""
    program = verifier.write(server / "verify_image", repository)
    path = {"PATH": f"{server}:/usr/bin:/bin"}
    done = subprocess.run([program, image, server / "bundle"], env=path, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return done.returncode, done.stdout


def test_image_of_the_workflow_is_accepted(server: Path) -> None:
    (server / "bundle").write_text(attestation(IMAGE))
    code, said = verify(server)
    assert (code, said) == (0, f".github/workflows/release.yml@refs/heads/main of owner/name has built {IMAGE}\n")


@pytest.mark.fault("an image that the release workflow has not built is released", "no server starts it")
@pytest.mark.parametrize(
    ("image", "identity"),
    [
        (f"api@{digest('another')}", SIGNER),
        (IMAGE, SIGNER.replace("heads/main", "heads/mine")),
        (IMAGE, SIGNER.replace("release.yml", "ci.yml")),
        (IMAGE, SIGNER.replace("owner/", "stranger/")),
    ],
)
def test_attestation_of_another_image_or_workflow_is_rejected(server: Path, image: str, identity: str) -> None:
    (server / "bundle").write_text(attestation(image, identity))
    code, said = verify(server)
    assert code == 1
    assert said.startswith("not verified that .github/workflows/release.yml@refs/heads/main of owner/name has built ")
    assert said.endswith(f"{IMAGE}: Error: no attestation fits\n")


def test_what_is_missing_is_said_and_nothing_is_accepted(server: Path) -> None:
    assert verify(server) == (1, "this release has no attestation; release.py deploy takes it with --attestation\n")
    (server / "bundle").write_text("")
    assert "no attestation" in verify(server)[1]
    (server / "bundle").write_text(attestation(IMAGE))
    (server / "manifest").write_text("None")  # as the AWS CLI says it
    assert verify(server) == (1, f"can't read the manifest of {IMAGE}; is it in the registry?\n")
    (server / "gh").unlink()
    assert verify(server) == (1, "gh is not installed; look at /var/log/cloud-init-output.log\n")


def test_without_a_repository_nothing_is_verified_and_that_is_said(server: Path) -> None:
    assert verify(server, "") == (0, "images are not verified: the stack's SignerRepository is empty\n")
