"""An S3 server on loopback that refuses what Cloudflare R2 refuses, and fails where a test plans it.

moto keeps the objects; the WSGI application in front of it holds R2's published rules (pages "S3 API
compatibility", "Limits" and "Error codes") which moto, like AWS, does not: no ACLs, tags or SSE headers
(501), one write per second and key (429, code 10058), equal multipart parts (400 InvalidPart, code 10048),
regions `auto` and `us-east-1` only. It also serialises requests: conditional writes are atomic and listings
consistent, as on R2.

>>> with R2Server() as server:                                    # doctest: +SKIP
...     url = server.bucket()                                     # "s3://bucket-1"; also readable as r2://
...     os.environ.update(server.environment())                   # worker processes need nothing but this
...     server.drop_response(r"ledger/.*json")                    # applied, but the client never hears of it
"""

import io
import itertools
import logging
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

RATE_LIMITED = (429, "TooManyRequests", "Reduce your concurrent request rate for the same object. (10058)")
UNEQUAL_PARTS = (400, "InvalidPart", "All non-trailing parts must have the same length. (10048)")
BAD_REGION = (400, "InvalidRegionName", "The region name is not valid. Must be auto or us-east-1.")
SLOW_DOWN = (503, "ServiceUnavailable", "Please reduce your request rate.")
BURSTS = {429: RATE_LIMITED, 503: SLOW_DOWN, 500: (500, "InternalError", "We encountered an internal error.")}

REFUSED_HEADERS = re.compile(
    r"acl|grant-.*|tagging.*|request-payer|expected-bucket-owner|website-redirect-location|object-lock-.*"
    r"|server-side-encryption(?!-customer).*"
)
REFUSED_RESOURCES = re.compile(
    "accelerate|acl|analytics|intelligent-tiering|inventory|legal-hold|logging|metrics|notification|object-lock"
    "|ownershipControls|policy|policyStatus|publicAccessBlock|replication|requestPayment|retention|tagging|torrent"
    "|versioning|versions|website"
)


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; `status` 0 is a response that was dropped on purpose."""

    method: str
    bucket: str
    key: str
    query: tuple[str, ...]
    status: int
    sent: int
    """Bytes of body received."""
    started: float
    """time.monotonic() at arrival."""


@dataclass
class Fault:
    """A planned fault: skips `after` matching requests, then hits `times` of them."""

    pattern: re.Pattern[str]
    methods: frozenset[str]
    after: int
    times: int
    status: int
    hits: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method not in self.methods or self.times == 0 or not self.pattern.search(path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        self.hits += 1
        return True


@dataclass
class R2Server:
    """Start with `with R2Server() as server`; threaded, on a free port of 127.0.0.1."""

    seconds_between_writes: float = 1.0
    """R2 allows one write per second to one key; 0 turns the rule off."""
    access_key: str = field(default_factory=lambda: f"dummy-key-{secrets.token_hex(4)}")
    secret_key: str = field(default_factory=lambda: f"dummy-word-{secrets.token_hex(4)}")
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.RLock()  # moto is a dict without locks: one request at a time keeps it atomic
        self._written: dict[tuple[str, str], float] = {}
        self._parts: dict[tuple[str, str], int] = {}
        self._faults: list[Fault] = []
        self._names = (f"bucket-{secrets.token_hex(3)}-{i}" for i in itertools.count())
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="r2-rules", daemon=True)

    def __enter__(self) -> "R2Server":
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # -- what a test uses ------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self) -> dict[str, str]:
        """Variables by which this process, or any it spawns, reaches the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "auto",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str | None = None) -> str:
        """Create a bucket and return its URL, `s3://name`."""
        name = name or next(self._names)
        status = self._internal("PUT", f"/{name}")
        assert status == 200, f"bucket {name} could not be created: {status}"
        return f"s3://{name}"

    def drop_response(self, pattern: str, *, nth: int = 1, times: int = 1, methods: str = "PUT") -> Fault:
        """Apply the `nth` request whose "/bucket/key" matches, then hang up without an answer."""
        return self._plan(pattern, nth - 1, times, methods, 0)

    def burst(
        self, status: int = 503, *, times: int, pattern: str = "", methods: str = "GET PUT POST DELETE HEAD"
    ) -> Fault:
        """Answer the next `times` matching requests with 503, 429 or 500 and apply none of them."""
        return self._plan(pattern, 0, times, methods, status)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def count(self, method: str | None = None, pattern: str = "", *, status: int | None = None) -> int:
        """Requests so far of a method, whose "/bucket/key" matches, that were answered with `status`."""
        return sum(
            (method is None or r.method == method)
            and (status is None or r.status == status)
            and re.search(pattern, f"/{r.bucket}/{r.key}") is not None
            for r in list(self.requests)
        )

    def by_method(self) -> Counter[str]:
        return Counter(r.method for r in list(self.requests))

    def forget(self) -> None:
        """Empty the request log; objects and the clocks of their keys stay."""
        self.requests.clear()

    # -- the application -------------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.monotonic()
        body = _read_body(environ)
        method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"])
        bucket, _, key = path.lstrip("/").partition("/")
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        with self._lock:
            dropped = False
            fault = next((f for f in self._faults if f.strikes(method, path)), None)
            refusal = BURSTS[fault.status] if fault is not None and fault.status else None
            refusal = refusal or self._refusal(environ, method, bucket, key, query, body)
            if refusal is not None:
                status, headers, payload = _error(*refusal)
            else:
                status, headers, payload = self._apply(environ, body)
                if status < 300:
                    self._remember(method, bucket, key, query, body, started)
                dropped = fault is not None
            self.requests.append(
                Request(
                    method, bucket, key, tuple(sorted(query)), 0 if dropped else status, len(body), started
                )
            )
        if dropped:
            environ["werkzeug.socket"].shutdown(
                socket.SHUT_RDWR
            )  # else a keep-alive client waits for its timeout
            raise ConnectionAbortedError("response dropped on purpose")
        start_response(f"{status} {'OK' if status < 300 else 'Refused'}", headers)
        return [b"" if method == "HEAD" else payload]

    def _refusal(
        self, environ: dict[str, Any], method: str, bucket: str, key: str, query: dict[str, Any], body: bytes
    ) -> tuple[int, str, str] | None:
        """The first of R2's rules that this request breaks, or None."""
        scope = re.search(r"Credential=([^/]+)/\d+/([^/]*)/s3/", environ.get("HTTP_AUTHORIZATION", ""))
        if scope is None:
            return 403, "AccessDenied", "Access Denied. (10003)"
        if scope[1] != self.access_key:
            return 403, "SignatureDoesNotMatch", "Check your secret access key and signing method. (10035)"
        if scope[2] not in ("auto", "us-east-1", ""):
            return BAD_REGION
        names = [n[11:].lower().replace("_", "-") for n in environ if n.startswith("HTTP_X_AMZ_")]
        if refused := [n for n in names if REFUSED_HEADERS.fullmatch(n)]:
            return 501, "NotImplemented", f"Header 'x-amz-{refused[0]}' not implemented"
        if refused := [n for n in query if REFUSED_RESOURCES.fullmatch(n)]:
            return 501, "NotImplemented", f"{method} ?{refused[0]} not implemented"
        if _writes_object(method, key, query):
            since = time.monotonic() - self._written.get((bucket, key), -1e9)
            if since < self.seconds_between_writes:
                return RATE_LIMITED
        if method == "POST" and "uploadId" in query:
            sizes = [self._parts.get((query["uploadId"][0], n), 0) for n in _part_numbers(body)]
            if len(set(sizes[:-1])) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0]):
                return UNEQUAL_PARTS
        return None

    def _remember(
        self, method: str, bucket: str, key: str, query: dict[str, Any], body: bytes, started: float
    ) -> None:
        if _writes_object(method, key, query):
            self._written[bucket, key] = started
        elif method == "PUT" and "partNumber" in query:
            self._parts[query["uploadId"][0], query["partNumber"][0]] = len(body)

    def _apply(self, environ: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Hand the request to moto, which knows no region `auto`, and keep its whole answer."""
        authorization = re.sub(
            r"(Credential=[^/]+/\d+)/[^/]*/", r"\1/us-east-1/", environ["HTTP_AUTHORIZATION"]
        )
        inner = {**environ, "HTTP_AUTHORIZATION": authorization, "wsgi.input": io.BytesIO(body)}
        inner.update(CONTENT_LENGTH=str(len(body)))
        inner.pop("HTTP_TRANSFER_ENCODING", None)
        answer: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            answer.update(status=int(status.split()[0]), headers=headers)

        payload = b"".join(self._moto(inner, start))
        return answer["status"], answer["headers"], payload

    def _internal(self, method: str, path: str) -> int:
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "RAW_URI": path,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self._server.server_port),
            "HTTP_HOST": f"127.0.0.1:{self._server.server_port}",
            "HTTP_AUTHORIZATION": "AWS4-HMAC-SHA256 Credential=any/20260101/auto/s3/aws4_request",
            "wsgi.url_scheme": "http",
            "wsgi.errors": io.StringIO(),
        }
        with self._lock:
            return self._apply(environ, b"")[0]

    def _plan(self, pattern: str, after: int, times: int, methods: str, status: int) -> Fault:
        fault = Fault(re.compile(pattern), frozenset(methods.split()), after, times, status)
        with self._lock:
            self._faults.append(fault)
        return fault


class QuietHandler(MotoRequestHandler):
    """No line on stderr per request."""

    def log(self, *args: Any, **more: Any) -> None:
        pass


def _writes_object(method: str, key: str, query: dict[str, Any]) -> bool:
    """True for what makes a new version of an object: PUT, a finished multipart upload, DELETE."""
    if not key:
        return False
    if method == "POST":
        return "uploadId" in query
    return method in ("PUT", "DELETE") and "uploadId" not in query


def _read_body(environ: dict[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    stream = environ["wsgi.input"]
    if length:
        return bytes(stream.read(int(length)))
    return bytes(stream.read()) if environ.get("wsgi.input_terminated") else b""


def _part_numbers(body: bytes) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(body).iter() if e.tag.endswith("PartNumber")]


def _error(status: int, code: str, message: str) -> tuple[int, list[tuple[str, str]], bytes]:
    xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, [("Content-Type", "application/xml"), ("Content-Length", str(len(xml)))], xml.encode()
