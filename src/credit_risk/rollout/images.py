"""Images in ECR, and the zip that is released: appspec.yml, the hooks, the image's digest and its attestation."""

import base64
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

from botocore.exceptions import ClientError

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.rollout.stack import NOT_FOUND, Stack

DIGEST_REF = re.compile(r"(?P<registry>[^/]+)/(?P<repository>[^@:]+)@(?P<digest>sha256:[0-9a-f]{64})")
PROTECTED = "released-"  # prefix of the tag that the repository's lifecycle policy keeps


def check(stack: Stack, image: str) -> None:
    """Checks that the servers can pull an image, before anything changes.

    Raises:
        ProjectError: it is not named by digest, or not in the stack's repository.
    """
    parts = DIGEST_REF.fullmatch(image)
    if not parts:
        raise ProjectError(f"{image} is not REPOSITORY@sha256:…; 7.deploy/push_image.sh prints it")
    if parts["repository"] != stack.outputs["Repository"]:
        raise ProjectError(f"the servers can pull from {stack.outputs['Repository']}, not from {parts['repository']}")
    if not _digest(stack, parts["repository"], imageDigest=parts["digest"]):
        raise ProjectError(f"{image} is not in its repository; push it first")


def read_attestation(stack: Stack, image: str, path: Path | None) -> bytes:
    """The attestation of an image, for the servers, which verify it; b"" without a file.

    Raises:
        ProjectError: the servers want one and there is none, it can't be read, or it is of another image.
    """
    repository = stack.outputs.get("SignerRepository")
    if path is None:
        if repository:
            command = f"gh attestation download oci://{image} --repo {repository}"
            raise ProjectError(
                f"servers start only images that {repository} has built: give --attestation FILE; `{command}` writes it"
            )
        return b""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProjectError(f"can't read the attestation {path}: {error.strerror}") from error
    if not _names(content, image.rpartition(":")[2]):
        raise ProjectError(f"{path} is no attestation of {image}")
    return content


def protect(stack: Stack, image: str) -> None:
    """Adds a tag with which an image on servers does not expire: new servers pull it, and so does a rollback."""
    repository, digest = stack.outputs["Repository"], image.partition("@")[2]
    ecr = stack.client("ecr")
    (found,) = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageDigest": digest}])["images"]
    # The type, where it is known: a manifest need not contain it.
    kind = {"imageManifestMediaType": found["imageManifestMediaType"]} if "imageManifestMediaType" in found else {}
    tag = PROTECTED + digest.removeprefix("sha256:")[:12]
    try:
        ecr.put_image(repositoryName=repository, imageManifest=found["imageManifest"], imageTag=tag, **kind)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"ImageAlreadyExistsException", "ImageTagAlreadyExistsException"}:
            raise


def upload(stack: Stack, image: str, attestation: bytes = b"") -> str:
    """Uploads a release; returns its key in the bucket, which is the same for the same content."""
    content = bundle(image, attestation)
    digests = image.rpartition(":")[2][:12], hashlib.sha256(content).hexdigest()[:12]
    key = f"releases/{'-'.join(digests)}.zip"
    metadata = {"image": image, "attested": "yes" if attestation else "no"}
    stack.client("s3").put_object(Bucket=stack.outputs["ReleasesBucket"], Key=key, Body=content, Metadata=metadata)
    return key


def image_of(stack: Stack, key: str | None) -> str:
    """The image of a release."""
    if not key:
        return "none"
    found = stack.client("s3").head_object(Bucket=stack.outputs["ReleasesBucket"], Key=key)
    return str(found["Metadata"]["image"])


def is_attested(stack: Stack, key: str) -> bool:
    """Whether servers that verify images start a release; hooks of before that was recorded verify nothing."""
    found = stack.client("s3").head_object(Bucket=stack.outputs["ReleasesBucket"], Key=key)
    return bool(found["Metadata"].get("attested") != "no")


def bundle(image: str, attestation: bytes = b"") -> bytes:
    """The zip that CodeDeploy unpacks: appspec.yml, hooks, the image's digest and attestation, the example request."""
    aws = root() / "7.deploy" / "aws"
    files = {"appspec.yml": (aws / "appspec.yml").read_bytes(), "image.env": f"IMAGE={image}\n".encode()}
    files |= {f"hooks/{path.name}": path.read_bytes() for path in sorted((aws / "hooks").glob("*.sh"))}
    if attestation:
        files["attestation.jsonl"] = attestation
    files["example.json"] = json.dumps(CONTRACT.example).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # without a date, so that equal content gives equal bytes
            entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            archive.writestr(entry, content)
    return target.getvalue()


def _names(attestation: bytes, digest: str) -> bool:
    """Whether an attestation (lines of JSON, as GitHub's) names an image's digest."""
    try:
        claims = [base64.b64decode(json.loads(line)["dsseEnvelope"]["payload"]) for line in attestation.splitlines()]
    except (ValueError, KeyError, TypeError):
        return False
    return any(digest.encode() in claim for claim in claims)


def _digest(stack: Stack, repository: str, **image_id: str) -> str | None:
    """The digest of an image in ECR; None if it is not there."""
    try:
        found = stack.client("ecr").describe_images(repositoryName=repository, imageIds=[image_id])["imageDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
    return str(found[0]["imageDigest"])
