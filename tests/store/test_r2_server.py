"""Every rule of the test server really bites, with the clients the project uses (obstore, boto3)."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import S3Store

from tests.r2_rules import R2Server

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server() -> Iterator[R2Server]:
    with R2Server() as server:
        yield server


@pytest.fixture
def bucket(server: R2Server) -> str:
    server.clear_faults()
    server.forget()
    return server.bucket().removeprefix("s3://")


def s3_client(server: R2Server, *, region: str = "auto", access_key: str | None = None) -> Any:
    """A boto3 client that never retries, so that a test sees the first answer."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=region,
        aws_access_key_id=access_key or server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(retries={"max_attempts": 0}, request_checksum_calculation="when_required"),
    )


def store(server: R2Server, bucket: str, **more: Any) -> S3Store:
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key, **more}
    options: Any = {"client_options": {"allow_http": True}, "virtual_hosted_style_request": False}
    return S3Store(bucket, endpoint=server.endpoint, region="auto", **keys, **options)


def refusal(call: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_objects_come_back_and_absent_ones_are_404(server: R2Server, bucket: str) -> None:
    s3 = s3_client(server)
    s3.put_object(Bucket=bucket, Key="a/é b+c", Body=b"data")
    assert s3.get_object(Bucket=bucket, Key="a/é b+c", Range="bytes=1-2")["Body"].read() == b"at"
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="a/")["Contents"]] == ["a/é b+c"]
    assert refusal(s3.get_object, Bucket=bucket, Key="none") == (404, "NoSuchKey")
    assert refusal(s3.list_objects_v2, Bucket="no-such-bucket") == (404, "NoSuchBucket")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/é b+c"}]})
    assert refusal(s3.head_object, Bucket=bucket, Key="a/é b+c")[0] == 404


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("put_object", {"ACL": "private"}),
        ("put_object", {"GrantRead": "id=somebody"}),
        ("put_object", {"Tagging": "night=1"}),
        ("put_object", {"ServerSideEncryption": "AES256"}),
        ("put_object", {"ExpectedBucketOwner": "123456789012"}),
        ("create_multipart_upload", {"ACL": "private"}),
        ("get_object_acl", {}),
        ("put_object_acl", {"ACL": "private"}),
        ("get_object_tagging", {}),
        ("get_bucket_policy", {"Key": None}),
        ("get_bucket_versioning", {"Key": None}),
    ],
)
def test_what_r2_does_not_implement_is_501(
    server: R2Server, bucket: str, call: str, arguments: dict[str, Any]
) -> None:
    arguments = {"Bucket": bucket, "Key": "k", **arguments}
    given = {name: value for name, value in arguments.items() if value is not None}
    assert refusal(getattr(s3_client(server), call), **given) == (501, "NotImplemented")


def test_a_second_write_of_a_key_within_a_second_is_429(server: R2Server, bucket: str) -> None:
    s3 = s3_client(server)
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    s3.put_object(Bucket=bucket, Key="other", Body=b"1")
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"2") == (429, "TooManyRequests")
    assert refusal(s3.delete_object, Bucket=bucket, Key="k")[0] == 429
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    time.sleep(1.0)
    s3.put_object(Bucket=bucket, Key="k", Body=b"3")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"


def test_a_client_that_retries_gets_through_the_write_limit(server: R2Server, bucket: str) -> None:
    s3 = store(server, bucket)
    for i in range(3):
        obstore.put(s3, "k", b"%d" % i)
    assert bytes(obstore.get(s3, "k").bytes()) == b"2"
    times = [r.started for r in server.requests if r.method == "PUT" and r.status == 200]
    assert len(times) == 3
    assert min(b - a for a, b in itertools.pairwise(times)) >= 1.0
    assert server.count("PUT", status=429) > 0


@pytest.mark.parametrize(
    ("mebibytes", "accepted"),
    [((5, 5, 1), True), ((5, 5, 5), True), ((6, 5, 1), False), ((5, 6), False), ((7,), True)],
)
def test_multipart_parts_must_be_equal_but_for_a_shorter_last(
    server: R2Server, bucket: str, mebibytes: tuple[int, ...], accepted: bool
) -> None:
    s3 = s3_client(server)
    upload = {"Bucket": bucket, "Key": "big"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    parts = [
        {"PartNumber": i, "ETag": s3.upload_part(**upload, PartNumber=i, Body=bytes(n << 20))["ETag"]}
        for i, n in enumerate(mebibytes, start=1)
    ]
    complete = {**upload, "MultipartUpload": {"Parts": parts}}
    if accepted:
        s3.complete_multipart_upload(**complete)
        assert s3.head_object(Bucket=bucket, Key="big")["ContentLength"] == sum(mebibytes) << 20
    else:
        assert refusal(s3.complete_multipart_upload, **complete) == (400, "InvalidPart")


def test_obstore_multipart_uploads_satisfy_the_equal_part_rule(server: R2Server, bucket: str) -> None:
    data = os.urandom(12 << 20)
    obstore.put(store(server, bucket), "big", data, chunk_size=5 << 20)
    assert bytes(obstore.get(store(server, bucket), "big").bytes()) == data
    assert server.by_method() == {"POST": 2, "PUT": 3, "GET": 1}


def test_a_conditional_create_has_one_winner_among_many(server: R2Server, bucket: str) -> None:
    won = []

    def create(i: int) -> None:
        try:
            obstore.put(store(server, bucket), "lease", b"%d" % i, mode="create")
            won.append(i)
        except AlreadyExistsError:
            pass

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(won) == 1
    assert bytes(obstore.get(store(server, bucket), "lease").bytes()) == b"%d" % won[0]


def test_conditions_that_do_not_hold_are_412(server: R2Server, bucket: str) -> None:
    server.seconds_between_writes = 0.0
    try:
        s3 = s3_client(server)
        etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
        call = {"Bucket": bucket, "Key": "k", "Body": b"2"}
        assert refusal(s3.put_object, **call, IfNoneMatch="*") == (412, "PreconditionFailed")
        assert refusal(s3.put_object, **call, IfMatch='"0"') == (412, "PreconditionFailed")
        s3.put_object(**call, IfMatch=etag)
        s3.put_object(**{**call, "Key": "new"}, IfNoneMatch="*")
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"2"
    finally:
        server.seconds_between_writes = 1.0


def test_unknown_regions_and_wrong_credentials_are_refused(server: R2Server, bucket: str) -> None:
    for region in ("auto", "us-east-1"):
        s3_client(server, region=region).put_object(Bucket=bucket, Key=region, Body=b"")
    wrong = s3_client(server, region="eu-west-1")
    assert refusal(wrong.list_objects_v2, Bucket=bucket) == (400, "InvalidRegionName")
    stranger = s3_client(server, access_key="somebody-else")
    assert refusal(stranger.put_object, Bucket=bucket, Key="k", Body=b"") == (403, "SignatureDoesNotMatch")
    with pytest.raises(PermissionDeniedError):
        obstore.put(store(server, bucket, access_key_id="somebody-else"), "k", b"")
    with pytest.raises(PermissionDeniedError):
        obstore.get(store(server, bucket, skip_signature=True), "auto")


def test_a_dropped_response_leaves_the_object_and_a_retry_meets_it(server: R2Server, bucket: str) -> None:
    fault = server.drop_response(r"/m\.json", nth=2)
    s3 = store(server, bucket)
    obstore.put(s3, "x/m.json", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):  # its own object: the server applied the first attempt
        obstore.put(s3, "y/m.json", b"second", mode="create")
    assert bytes(obstore.get(s3, "y/m.json").bytes()) == b"second"
    assert (fault.hits, server.count("PUT", "/y/", status=0)) == (1, 1)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_burst_of_refusals_applies_nothing_and_ends(server: R2Server, bucket: str, status: int) -> None:
    fault = server.burst(status, times=2, pattern="/k$", methods="PUT")
    s3 = s3_client(server)
    assert refusal(s3.put_object, Bucket=bucket, Key="k", Body=b"")[0] == status
    assert refusal(s3.head_object, Bucket=bucket, Key="k")[0] == 404
    obstore.put(store(server, bucket), "k", b"")
    assert (fault.hits, server.count("PUT", status=status), server.count("PUT", status=200)) == (2, 2, 1)


def test_a_spawned_process_needs_only_the_environment(server: R2Server, bucket: str) -> None:
    code = "import obstore; from obstore.store import S3Store; import sys\n" + (
        "obstore.put(S3Store(sys.argv[1], client_options={'allow_http': True}), 'k', b'from afar')"
    )
    environment = {**os.environ, **server.environment()}
    subprocess.run([sys.executable, "-c", code, bucket], env=environment, check=True)
    assert bytes(obstore.get(store(server, bucket), "k").bytes()) == b"from afar"
