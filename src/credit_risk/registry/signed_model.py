"""Signatures of registered models (OpenSSF model signing), which a user who can only write to the registry can't make.

The digest on a version is a tag: a user of the registry who exchanges the model can rewrite it, too. A signature is
made with a private key that no server has. With MODEL_PUBLIC_KEY set, a version is loaded only if its files are those
that this key has signed; without it, nothing is checked. `6.production/sign_model.py` makes keys and signatures.
"""

import base64
import binascii
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.registry.client import ONNX_PATH, REFERENCE_ROWS_PATH, Registry, Version

SIGNATURE = "signature"  # tag of a version: a Sigstore bundle as JSON
SIGNED = (ONNX_PATH, REFERENCE_ROWS_PATH)  # what is served, and what it is checked with


def sign(registry: Registry, number: str, private_key: Path) -> None:
    """Signs the files of a version as they are in the registry now.

    Args:
        registry: where the version is; this user may write to it.
        number: the version.
        private_key: a PEM file with an elliptic-curve key.

    Raises:
        ProjectError: there is no such version, or the key can't be used.
    """
    import model_signing.signing

    version = registry.version(number)
    with tempfile.TemporaryDirectory() as folder:
        files = [registry.download(version.number, path, Path(folder) / "downloaded") for path in SIGNED]
        with _manifest_folder(files) as model:
            bundle = Path(folder) / "bundle.json"
            try:
                config = model_signing.signing.Config()  # type: ignore[no-untyped-call]
                signer = config.use_elliptic_key_signer(private_key=private_key)
                signer.sign(model, bundle)
            except (OSError, ValueError, TypeError) as error:
                raise ProjectError(f"{private_key} is no private key for signing: {error}") from error
        registry.tag(version.number, SIGNATURE, bundle.read_text(encoding="utf-8"))


def check_signature(version: Version, files: list[Path], public_key: str) -> None:
    """Checks downloaded files against the version's signature.

    Args:
        version: whose tag holds the signature.
        files: the downloaded SIGNED.
        public_key: the line between the marks of a PEM file; empty to check nothing.

    Raises:
        ProjectError: there is no signature, or not of this key for these files.
    """
    if not public_key:
        return
    bundle = version.tags.get(SIGNATURE)
    if bundle is None:
        raise ProjectError("it is not signed; sign it with 6.production/sign_model.py")
    import model_signing.verifying

    with tempfile.TemporaryDirectory() as folder, _manifest_folder(files) as model:
        key, signature = Path(folder) / "key.pem", Path(folder) / "bundle.json"
        key.write_text(as_pem(public_key), encoding="ascii")
        signature.write_text(bundle, encoding="utf-8")
        try:
            config = model_signing.verifying.Config()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_verifier(public_key=key).verify(model, signature)
        except Exception as error:  # the library raises many kinds; whatever it is, the version is not verified
            raise ProjectError("its files are not those that the owner of MODEL_PUBLIC_KEY has signed") from error


def as_pem(public_key: str) -> str:
    """The PEM file of a public key that is given as one line.

    Raises:
        ProjectError: it is none.
    """
    try:
        base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProjectError("MODEL_PUBLIC_KEY is not the line that 6.production/sign_model.py prints") from error
    return f"-----BEGIN PUBLIC KEY-----\n{public_key}\n-----END PUBLIC KEY-----\n"


@contextmanager
def _manifest_folder(files: list[Path]) -> Iterator[Path]:
    """A folder with these files alone: a signature covers a folder, with the names in it."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        for file in files:
            shutil.copy(file, model)
        yield model
