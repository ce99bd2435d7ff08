"""Opening S3: where it is, who asks, and how often a request is tried. No secret is ever kept."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from obstore.store import S3Store

from scalespec.config import BUCKET_OPTIONS
from scalespec.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import RetryConfig, S3Config, S3Credential

REGION = "us-east-1"
LOOPBACK = re.compile(r"http://(127\.|localhost|\[::1\])")
RETRY: "RetryConfig" = {
    "max_retries": 12,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 5,
    },
    "retry_timeout": timedelta(minutes=3),
}
"""Each wait is drawn between the first and five times the one before (decorrelated jitter): about a
minute in all, under 12 s in one case of a hundred. So a server's restart is waited for. With a base
of two the waits would hardly grow: ten of them would be over in two seconds.
"""


class ProfileCredentials:
    """Credentials of a named profile, by the standard chain of AWS, in the process that asks.

    It pickles as the profile's name; what it finds is handed on and not kept.
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile

    def __call__(self) -> "S3Credential":
        """Return the profile's credentials as they are now.

        Raises
        ------
        StoreError
            If there is no such profile, or it has no credentials.
        """
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # heavy
        from botocore.session import Session  # type: ignore[import-untyped]

        try:
            found = Session(profile=self.profile).get_credentials()
        except BotoCoreError as error:
            raise StoreError(f"profile '{self.profile}': {error}") from error
        if found is None:
            raise StoreError(f"profile '{self.profile}' has no credentials: run aws configure")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),  # then it is asked again
        }


def open_s3(bucket: str, prefix: str, options: Mapping[str, str]) -> S3Store:
    """Open a prefix of a bucket.

    Parameters
    ----------
    bucket, prefix : str
        Where; the prefix may be empty.
    options : mapping of str to str
        Any of `config.BUCKET_OPTIONS`. Plain HTTP is for loopback, or wants ``allow_http``.

    Raises
    ------
    StoreError
        If an option is not known, or the profile has no credentials.
    """
    if wrong := sorted(set(options) - BUCKET_OPTIONS):
        raise StoreError(f"unknown options {wrong}; known are {sorted(BUCKET_OPTIONS)}")
    endpoint, profile = options.get("endpoint"), options.get("profile")
    anonymous = options.get("anonymous") == "true"
    config: S3Config = {"region": options.get("region", REGION), "skip_signature": anonymous}
    if endpoint:
        config["endpoint"] = endpoint
    plain_http = options.get("allow_http") == "true" or bool(LOOPBACK.match(endpoint or ""))
    provider = None
    if profile and not anonymous:
        provider = ProfileCredentials(profile)
        provider()  # what is wrong with it is said here, not by the first request
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"allow_http": plain_http, "timeout": timedelta(minutes=2)},
        retry_config=RETRY,
        credential_provider=provider,
    )


def storage_options(options: Mapping[str, str]) -> dict[str, object]:
    """Return the same options as s3fs and fsspec want them, as pandas' ``storage_options``.

    Examples
    --------
    >>> storage_options({"anonymous": "true"})
    {'anon': True, 'client_kwargs': {'region_name': 'us-east-1'}}
    """
    found: dict[str, object] = {"anon": options.get("anonymous") == "true"}
    if endpoint := options.get("endpoint"):
        found["endpoint_url"] = endpoint
    if profile := options.get("profile"):
        found["profile"] = profile
    return found | {"client_kwargs": {"region_name": options.get("region", REGION)}}
