"""Turns exceptions of MLflow, its databases, requests and boto3 into one sentence with a remedy."""

import errno
import os
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.exceptions as aws
import requests
from mlflow.exceptions import MlflowException

# By name: a server has no SQLAlchemy.
_LIBRARIES = {"boto3", "botocore", "mlflow", "requests", "s3transfer", "sqlalchemy", "sqlite3", "urllib3"}
_DISK_FULL, _READ_ONLY = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)

_Matches = Callable[[BaseException], bool]


def is_registry_error(error: BaseException, folder: Path | None) -> bool:
    """Whether the registry or its storage has failed, and not this project's code or this machine.

    Args:
        error: what was raised while the registry was used.
        folder: where an embedded registry keeps its artifacts; None for a server.
    """
    if type(error) is MlflowException and error.error_code == "INVALID_PARAMETER_VALUE":
        return False  # MLflow's own check of the arguments it was called with
    if any(kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__):
        return True
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return True
    if not isinstance(error, OSError) or folder is None or not _raised_in(error, "mlflow.store."):
        return False
    paths = [Path(os.fsdecode(path)) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    return not paths or any(path.is_relative_to(folder) for path in paths)


def _raised_in(error: BaseException, package: str) -> bool:
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith(package) for name in frames)


def describe_error(error: BaseException, server: str, setting: str) -> str:
    """Describes an error in one sentence, which ends with the original message.

    Args:
        error: what a client of MLflow or S3 has raised; its causes are searched too.
        server: name and address of the server or store.
        setting: environment variable that holds the address.
    """
    bundle = "AWS_CA_BUNDLE" if setting.startswith("AWS") else "MLFLOW_TRACKING_SERVER_CERT_PATH"
    for matches, sentence in _CASES:
        for cause in _causes(error):
            if matches(cause):
                return f"{sentence.format(server=server, setting=setting, bundle=bundle)} ({error_text(cause)})"
    return f"{server} fails; check {setting} and the server's log ({error_text(error)})"


def _is(*kinds: type[BaseException]) -> _Matches:
    return lambda error: isinstance(error, kinds)


def _says(*texts: str) -> _Matches:
    return lambda error: any(text in str(error).lower().replace("_", " ") for text in texts)


def _errno(*numbers: int) -> _Matches:
    return lambda error: isinstance(error, OSError) and error.errno in numbers


def _s3(*codes: str) -> _Matches:
    return lambda error: isinstance(error, aws.ClientError) and error.response["Error"].get("Code") in codes


def _status(code: int) -> _Matches:
    def matches(error: BaseException) -> bool:
        if isinstance(error, MlflowException):
            return bool(error.get_http_status_code() == code)  # type: ignore[no-untyped-call]
        response = error.response if isinstance(error, requests.HTTPError) else None
        return response is not None and response.status_code == code

    return matches


def _wrong_region(error: BaseException) -> bool:
    malformed = _s3("AuthorizationHeaderMalformed")(error) and "region" in str(error).lower()
    return malformed or _s3("IllegalLocationConstraintException", "PermanentRedirect", "301")(error)


_CASES: tuple[tuple[_Matches, str], ...] = (
    (
        lambda error: (
            _is(requests.exceptions.ProxyError, aws.ProxyConnectionError)(error)
            or _says("unable to connect to proxy", "cannot connect to proxy")(error)
        ),
        "{server} can't be reached through the proxy; correct HTTP_PROXY and HTTPS_PROXY, or add the host to NO_PROXY",
    ),
    # As OpenSSL 3.0, and later versions, report an answer in plain HTTP.
    (_says("wrong version number", "record layer failure"), "{server} does not use TLS; write http:// in {setting}"),
    (_is(socket.gaierror), "{server}: there is no host with this name; correct {setting}"),
    (
        _is(ssl.SSLError, requests.exceptions.SSLError, aws.SSLError),
        "{server} has a TLS certificate that is not trusted; set {bundle} to the file of its certificate authority",
    ),
    (_is(ConnectionRefusedError), "{server} is down; start it, or correct {setting}"),
    (
        _is(TimeoutError, requests.Timeout, aws.ConnectTimeoutError, aws.ReadTimeoutError),
        (
            "{server} does not answer in time; check it and the firewall, correct {setting}, or raise "
            "MLFLOW_HTTP_REQUEST_TIMEOUT (MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT for a large model)"
        ),
    ),
    (_is(aws.ProfileNotFound), "{server}: this machine has no such AWS profile; correct AWS_PROFILE, or unset it"),
    (
        _is(aws.UnauthorizedSSOTokenError, aws.SSOTokenLoadError, aws.TokenRetrievalError),
        "{server}: the AWS sign-in has expired; sign in again: aws sso login",
    ),
    (_is(aws.ConfigParseError, aws.ConfigNotFound), "{server}: the AWS configuration can't be read; correct the file"),
    (
        _is(aws.CredentialRetrievalError, aws.MetadataRetrievalError),
        "{server}: this machine's AWS role or credential program gives no keys; correct it, or set AWS_ACCESS_KEY_ID",
    ),
    (
        _is(aws.NoCredentialsError, aws.PartialCredentialsError),
        "{server}: there are no AWS keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
    ),
    (
        _s3("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"),
        "{server} rejects the AWS keys; correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (_s3("ExpiredToken", "ExpiredTokenException", "RequestExpired"), "{server}: the AWS keys have expired; renew them"),
    (
        _s3("AccessDenied", "AllAccessDisabled", "403"),
        "{server} denies access to the AWS keys; allow s3:GetObject, s3:PutObject and s3:ListBucket on the bucket",
    ),
    (_s3("NoSuchBucket", "404"), "{server} does not exist; create the bucket, or correct its name"),
    (
        _wrong_region,
        "{server} is in another region; correct AWS_DEFAULT_REGION",
    ),
    (
        # Stores that are compatible with S3 as it was before 2025.
        _s3(
            *("NotImplemented", "MissingContentLength", "AuthorizationHeaderMalformed"),
            *("XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
        ),
        (
            "{server} does not take the checksums of uploads; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
            "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
        ),
    ),
    (
        _status(requests.codes.unauthorized),
        "{server} rejects user or password; correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    ),
    (_status(requests.codes.forbidden), "{server} denies this request; use a user with this permission"),
    (_errno(*_DISK_FULL), "{server}: a disk is full; free some space"),
    (
        _says("no space left on device", "disk quota exceeded", "disk is full"),
        "{server}: a disk is full; free some space",
    ),
    (_errno(*_READ_ONLY), "{server}: the storage is read-only; make it writable"),
    (_says("read-only file system", "readonly database"), "{server}: the storage is read-only; make it writable"),
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def error_text(error: BaseException) -> str:
    """An exception on one line, cut to 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
