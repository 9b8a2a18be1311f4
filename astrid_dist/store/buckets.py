"""Connections to object stores: endpoint, region, credentials from the environment; path style; retries."""

import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from astrid_dist.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from obstore.store import S3Store


def bucket_store(url: str, scheme: str, bucket: str, key: str) -> "S3Store":
    """Store of a prefix of a bucket, one per process and set of credentials.

    Parameters
    ----------
    url : str
        For messages.
    scheme : str
        ``s3`` or ``r2``; R2 takes the region ``auto`` and its endpoint from ``R2_ACCOUNT_ID``.
    bucket, key : str
        Bucket, and prefix in it.

    Raises
    ------
    ConfigError
        ``r2://`` without an account or an endpoint.
    StorageError
        No credentials in the environment or an AWS profile.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if scheme == "r2":
        region = "auto"
        if not endpoint:
            account = os.environ.get("R2_ACCOUNT_ID")
            if not account:
                raise ConfigError(f"{url} needs R2_ACCOUNT_ID (or AWS_ENDPOINT_URL) in the environment")
            endpoint = f"https://{account}.r2.cloudflarestorage.com"
    credentials = tuple(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))
    retry_s = float(os.environ.get("ASTRID_RETRY_S", "60"))
    return _connect(url, bucket, key, endpoint, region, credentials, retry_s)


class _AwsCredentials:
    """Credentials of the AWS chain (profile, container, instance), asked for anew when they expire."""

    def __init__(self) -> None:
        import botocore.session  # type: ignore[import-untyped]

        self.found = botocore.session.Session().get_credentials()

    def __call__(self) -> dict[str, Any]:
        frozen = self.found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=15),
        }


@lru_cache(maxsize=256)
def _connect(
    url: str,
    bucket: str,
    key: str,
    endpoint: str | None,
    region: str,
    credentials: tuple[str | None, ...],
    retry_s: float,
) -> "S3Store":
    from obstore.store import S3Store

    provider = None
    if credentials[0] is None:
        provider = _AwsCredentials()
        if provider.found is None:
            raise StorageError(
                f"no credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the"
                " environment, or AWS_PROFILE to a profile that has them"
            )
    loopback = endpoint is not None and urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1")
    return S3Store(
        bucket,
        prefix=key or None,
        endpoint=cast(Any, endpoint),
        region=region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": loopback, "connect_timeout": "5s", "timeout": "300s"},
        retry_config={
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=300),
                "max_backoff": timedelta(seconds=10),
                "base": 2.0,
            },
        },
        credential_provider=cast(Any, provider),
    )
