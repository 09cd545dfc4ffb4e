"""The program of the launch template that verifies images, with a small program instead of GitHub's."""

import hashlib
import re
import textwrap
from pathlib import Path

from projects import REPOSITORY

TEMPLATE = REPOSITORY / "7.deploy" / "aws" / "servers.yaml"
SIGNER = "https://github.com/owner/name/.github/workflows/release.yml@refs/heads/main"
GH = """#!/bin/sh
# Takes lines "DIGEST IDENTITY" as attestations; without credentials, like a server.
[ -z "$GH_TOKEN$GITHUB_TOKEN" ] && [ "$1 $2 $4 $6 $8" = "attestation verify --bundle --repo --cert-identity" ] &&
    [ "${10}" = --deny-self-hosted-runners ] || { echo "unexpected: $*" >&2; exit 2; }
grep -qxF "sha256:$(sha256sum <"$3" | cut -d ' ' -f 1) $9" "$5" ||
    { printf 'Error: no attestation fits\\n\\n' >&2; exit 1; }
"""


def write(path: Path, repository: str = "") -> Path:
    """Writes the program like the user data of a stack with this SignerRepository."""
    pattern = r"^ *cat > /usr/local/libexec/api/verify_image <<'END'\n(.*?)^ *END$"
    found = re.search(pattern, TEMPLATE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    text = textwrap.dedent(found[1]).replace("${SignerRepository}", repository)
    path.write_text(text.replace("${SignerWorkflow}", SIGNER.partition("/owner/name/")[2]))
    path.chmod(0o755)
    return path


def attestation(image: str, identity: str = SIGNER) -> str:
    """An attestation of an image, for the program instead of GitHub's."""
    return f"{image.partition('@')[2]} {identity}\n"


def digest(manifest: str) -> str:
    """The digest of the image with this manifest."""
    return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
