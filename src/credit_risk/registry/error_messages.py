"""What is wrong with a server, in one sentence with the remedy: instead of what requests, MLflow and boto3 raise."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import botocore.exceptions as aws
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from urllib3.exceptions import ProtocolError

_S3_CODES = {
    "keys are wrong; correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY": (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "InvalidClientTokenId",
    ),
    "keys have expired; sign in again, or fetch new ones with their AWS_SESSION_TOKEN": (
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "TokenRefreshRequired",
    ),
    "keys may not do this; give their user or role s3:GetObject, s3:PutObject and s3:ListBucket on the bucket": (
        "AccessDenied",
        "AllAccessDisabled",
        "403",
    ),
    "bucket does not exist; create it, or correct its name": ("NoSuchBucket", "404"),
    "bucket is in another region; correct AWS_DEFAULT_REGION": (
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "301",
    ),
    "disk is full; free some space, or raise the quota": ("XMinioStorageFull", "InsufficientCapacity", "QuotaExceeded"),
    "clock and this machine's are more than 15 minutes apart; set this one (NTP)": ("RequestTimeTooSkewed",),
}
_TEXTS = {  # a gateway before a disk passes its words on
    "disk is full; free some space, or raise the quota": ("no space left on device", "disk quota exceeded"),
    "storage is read-only; make it writable, or use another bucket": ("read-only file system",),
}
_NO_TLS = (
    "wrong version number",
    "record layer failure",
)  # as OpenSSL 3.0, and later ones, call an answer in plain HTTP
_ERRNOS = {errno.ENOSPC: 0, errno.EDQUOT: 0, errno.EROFS: 1, errno.EACCES: 1, errno.EPERM: 1}
_NETWORK: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((socket.gaierror,), "{who}: there is no host of this name; correct {setting}"),
    (
        (ssl.SSLError, requests.exceptions.SSLError, aws.SSLError),
        "{who} has a TLS certificate that is not trusted; name the file of its authority in {bundle}",
    ),
    ((ConnectionRefusedError,), "{who} is down: nothing listens there; start it, or correct {setting}"),
    (
        (TimeoutError, requests.Timeout, aws.ConnectTimeoutError, aws.ReadTimeoutError),
        "{who} does not answer in time; see whether it is frozen or behind a firewall, or correct {setting}",
    ),
    (
        (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnsupportedModelRegistryStoreURIException),
        "{who} is no address; write {setting} as http://host:port",
    ),
    ((ConnectionError, ProtocolError, aws.ConnectionClosedError), "{who} has broken off the connection; see its log"),
)


def explain(error: BaseException, who: str, setting: str) -> str:
    """Says what an error means.

    Args:
        error: what a client of MLflow, S3 or a disk has raised; what it was raised from tells more than itself.
        who: the server, with its address.
        setting: environment variable that holds the address.
    """
    causes = list(_causes(error))
    for known in (_by_network, _by_s3, _by_status, _by_disk):
        for cause in causes:
            if sentence := known(cause, who, setting):
                return sentence
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{who} fails: {text}; check {setting}"


def describe_status(status: int, body: str, who: str) -> str:
    """Says what an HTTP status of an MLflow server means; nothing for those that mean many things."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if status == requests.codes.unauthorized:
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"{who} refuses user {user} or its password; correct {variables}" if user else f"{who} wants {variables}"
    if status == requests.codes.forbidden and "Invalid Host header" in body:
        host = urlsplit(who.rsplit(maxsplit=1)[-1]).netloc
        return (
            f"{who} does not allow this host name; start it with --allowed-hosts {host}, or use a name that it allows"
        )
    if status == requests.codes.forbidden:
        return f"{who} does not let user {user} do this; use another user, or have its admin grant the right"
    if status >= requests.codes.internal_server_error:
        return f"{who} answers with HTTP {status}: its database or its artifact store fails it; see its log"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _by_network(error: BaseException, who: str, setting: str) -> str:
    if any(text in str(error).lower().replace("_", " ") for text in _NO_TLS):
        return f"{who} does not speak TLS; write http:// in {setting}"
    bundle = "AWS_CA_BUNDLE" if setting.startswith("AWS") else "MLFLOW_TRACKING_SERVER_CERT_PATH"
    for kinds, sentence in _NETWORK:
        if isinstance(error, kinds):
            return sentence.format(who=who, setting=setting, bundle=bundle)
    return ""


def _by_s3(error: BaseException, who: str, _: str) -> str:
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
        role = "give this machine a role"
        return f"{who}: there are no AWS keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or {role}"
    if not isinstance(error, aws.ClientError):
        return ""
    code, text = (str(error.response["Error"].get(part, "")) for part in ("Code", "Message"))
    for words, codes in _S3_CODES.items():
        if code in codes:
            return f"{who}: its {words} ({code})"
    return _by_text(text, who)


def _by_status(error: BaseException, who: str, _: str) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return describe_status(error.response.status_code, error.response.text, who)
    if isinstance(error, requests.exceptions.RetryError):
        return describe_status(requests.codes.internal_server_error, "", who)
    if isinstance(error, MlflowException):
        return describe_status(error.get_http_status_code(), str(error), who)  # type: ignore[no-untyped-call]
    return ""


def _by_disk(error: BaseException, who: str, _: str) -> str:
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return f"{who}: its {list(_TEXTS)[_ERRNOS[error.errno]]}"
    return _by_text(str(error), who)


def _by_text(text: str, who: str) -> str:
    for words, texts in _TEXTS.items():
        if any(part in text.lower() for part in texts):
            return f"{who}: its {words}"
    return ""
