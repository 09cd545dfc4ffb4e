"""Signs a registered version, so that servers with MODEL_PUBLIC_KEY load it; makes the pair of keys.

The private key belongs to the person or job that approves models, and to no server.

Usage: uv run 6.production/sign_model.py --new-key KEY.pem    writes a private key, prints the line for MODEL_PUBLIC_KEY
       uv run 6.production/sign_model.py VERSION --key KEY.pem
"""

from credit_risk.core.entry_point import run

import argparse
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from credit_risk.core.errors import ProjectError
from credit_risk.registry.client import Registry
from credit_risk.registry.signed_model import sign


def main() -> None:
    """Makes a key or a signature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", help="number of the version")
    keys = parser.add_mutually_exclusive_group(required=True)
    keys.add_argument("--key", type=Path, metavar="FILE", help="sign the version with this private key")
    keys.add_argument("--new-key", type=Path, metavar="FILE", help="write a new private key")
    arguments = parser.parse_args()
    if arguments.new_key:
        print(new_key(arguments.new_key))
        return
    if not arguments.version:
        parser.error("--key needs the number of a version")
    sign(Registry(), arguments.version, arguments.key)
    print(f"version {arguments.version} is signed")


def new_key(path: Path) -> str:
    """Writes a private key, readable by its owner only; returns the public one as a line.

    Raises:
        ProjectError: the file exists, or can't be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
    except OSError as error:
        raise ProjectError(f"{path} can't be written: {error.strerror}; name a new file") from error
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "".join(public.decode().splitlines()[1:-1])


if __name__ == "__main__":
    run("sign model", main)
