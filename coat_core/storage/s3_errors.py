"""Errors of S3 as one message each. No message contains what a server sent, nor anything of the credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coat_core.errors import StorageError, StorageUnavailableError

_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the host a role"
_REGION = "set AWS_DEFAULT_REGION to the region of the bucket"
_PERMISSION = (
    "the credentials need s3:ListBucket on the bucket and s3:GetObject on its objects, for an export also s3:PutObject and s3:DeleteObject"
)
_LATER = "try again later"
CHANGED = "list it again: coat source"
"""Next step where an object is no longer as listed."""

_BY_CODE = {
    "NoSuchBucket": ("there is no such bucket", "correct the name; buckets of another region need its AWS_DEFAULT_REGION"),
    "AccessDenied": ("access denied", _PERMISSION),
    "AllAccessDisabled": ("access denied", _PERMISSION),
    "403": ("access denied", _PERMISSION),
    "InvalidAccessKeyId": ("the server does not know this access key", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret access key does not belong to the access key", _CREDENTIALS),
    "InvalidToken": ("the session token is invalid", "sign in again"),
    "ExpiredToken": ("the session token has expired", "sign in again"),
    "TokenRefreshRequired": ("the session token has expired", "sign in again"),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "301": ("the bucket is in another region", _REGION),
    "RequestTimeTooSkewed": ("the clock of this host differs from the server's by more than 15 minutes", "set the clock"),
    "NoSuchKey": ("there is no such object any more", CHANGED),
    "404": ("there is no such object any more", CHANGED),
    "PreconditionFailed": ("the object has changed since it was listed", CHANGED),
    "412": ("the object has changed since it was listed", CHANGED),
    "InvalidObjectState": ("the object is archived", "restore it from its archive class"),
}
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "500", "502", "503", "504"})


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn errors of botocore within the context into errors of this project.

    Args:
        uri: the bucket or object, for the message.

    Raises:
        StorageUnavailableError: the server cannot be reached or is too busy; the same call may succeed later.
        StorageError: another error of the request.
    """
    from botocore import exceptions as aws

    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError) as error:
        raise StorageError("there are no complete credentials for S3", field="s3", value=uri, next_step=_CREDENTIALS) from error
    except aws.ProfileNotFound as error:
        raise StorageError("AWS_PROFILE names no profile of this host", field="s3", value=uri, next_step=_CREDENTIALS) from error
    except aws.ClientError as error:
        raise _of_code(str(error.response.get("Error", {}).get("Code", "")), uri) from error
    except transient_errors() as error:
        raise StorageUnavailableError(
            f"the S3 server cannot be reached or sends incomplete data ({type(error).__name__})", field="s3", value=uri,
            next_step="check the network and AWS_ENDPOINT_URL, then run the same command again",
        ) from error  # fmt: skip
    except (aws.BotoCoreError, ValueError) as error:
        raise StorageError(
            f"S3 cannot be used ({type(error).__name__})", field="s3", value=uri, next_step="check the AWS_* variables and ~/.aws/config"
        ) from error


def transient_errors() -> tuple[type[Exception], ...]:
    """Return botocore's errors of a lost connection, of a body that ends early, and of damaged data."""
    from botocore import exceptions as aws

    return aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, aws.FlexibleChecksumError


def _of_code(code: str, uri: str) -> StorageError:
    if code in _BUSY:
        return StorageUnavailableError(f"the S3 server is too busy ({code})", field="s3", value=uri, next_step=_LATER)
    message, step = _BY_CODE.get(code, (f"the S3 server refused the request ({code or 'no code'})", _PERMISSION))
    return StorageError(message, field="s3", value=uri, next_step=step)
