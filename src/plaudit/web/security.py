"""What keeps other pages, other people and hostile text away from a page that this machine serves."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Collection

from markupsafe import Markup, escape
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MONTH = 30 * 24 * 3600  # seconds that a browser keeps a cookie
LARGEST = 16_384  # bytes of a request's body; the largest form has a few hundred
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?")
_ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # without 0, 1, I, L, O, which look alike
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # not no-referrer: browsers then send Origin: null with every form
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
# Characters that cannot be seen but hide others or change their order (Unicode's bidirectional controls), and control
# characters, which HTML does not have.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def new_token() -> str:
    """256 random bits, for a link or a cookie."""
    return secrets.token_urlsafe(32)


def new_code(groups: int = 2) -> str:
    """A code that people can read aloud, such as KQ7M-3XTP: 20 random bits a group, and `Attempts` limits guessing."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(groups))


def secret_from(code: str, *context: str) -> str:
    """The secret of a cookie that a code stands for, by a slow hash: who has the database cannot try all codes."""
    salt = hashlib.sha256("\0".join(context).encode("utf-8", "replace")).digest()
    return hashlib.scrypt(plain_code(code).encode("utf-8", "replace"), salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


def same(given: str, secret: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8"))


def plain_code(code: str) -> str:
    """The letters and digits of a join code, which alone count."""
    return "".join(filter(str.isalnum, code.upper()))[:32]


def same_code(given: str, code: str) -> bool:
    """Whether a join code is right, however it was typed."""
    return same(plain_code(given), plain_code(code))


def visible(text: str) -> Markup:
    """`text` as HTML that shows what it is: tags as text, and hidden control characters by their numbers."""
    parts, end = [], 0
    text = text.replace("\r\n", "\n")
    for found in _HIDDEN.finditer(text):
        number = f"U+{ord(found.group()):04X}"
        parts += [escape(text[end : found.start()]), Markup('<span class="hidden-character">{}</span>').format(number)]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def signed_in(request: Request, cookie: str, secret: str, **others: str) -> Response:
    """A response that keeps a secret in a cookie, and others beside it, and leads to an address without them."""
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    for name, value in ((cookie, secret), *((f"{cookie}-{name}", value) for name, value in others.items())):
        response.set_cookie(name, value, max_age=_MONTH, httponly=True, samesite="strict", secure=secure)
    return response


def named(text: str) -> str:
    """`text` with hidden control characters by their numbers, for attributes and titles."""
    return _HIDDEN.sub(lambda found: f"U+{ord(found.group()):04X}", text)


class Attempts:
    """Limits failed attempts: `most` within `seconds` for one address, and ten times as many for all together."""

    def __init__(self, most: int = 10, seconds: float = 60.0) -> None:
        self.most, self.seconds = most, seconds
        self._failed: defaultdict[str, deque[float]] = defaultdict(deque)

    def allowed(self, address: str, now: float) -> bool:
        """Whether this address may try now."""
        for key in list(self._failed):
            times = self._failed[key]
            while times and times[0] <= now - self.seconds:
                times.popleft()
            if not times:
                del self._failed[key]
        total = sum(map(len, self._failed.values()))
        return total < 10 * self.most and len(self._failed.get(address, ())) < self.most

    def failed(self, address: str, now: float) -> None:
        """Remember a failed attempt."""
        self._failed[address].append(now)


def guard(app: ASGIApp, names: Collection[str] = (), anywhere: bool = False) -> ASGIApp:
    """`app` behind checks of every request, with headers on every response.

    A page elsewhere whose name suddenly means this machine (DNS rebinding) is refused by its Host. What changes
    something must come from a page of this server. Bodies are small.

    Args:
        app: what is guarded.
        names: that the server may be called, beside localhost and 127.0.0.1.
        anywhere: whether other machines reach the server; they may call it by any address, but by no other name.
    """

    def known(host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = found.group(1).strip("[]").lower() if found else ""
        try:
            return ipaddress.ip_address(name).is_loopback or anywhere
        except ValueError:
            return name in {"localhost", *(other.lower() for other in names)}

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if problem := _problem(scope["method"], Headers(scope=scope), known):
            status, text = problem
            # A body that is not read would be taken for the next request.
            response = PlainTextResponse(text, status, {"connection": "close"})
            return await response(scope, receive, send_with_headers)
        await app(scope, receive, send_with_headers)

    return guarded


def _problem(method: str, headers: Headers, known: Callable[[str], bool]) -> tuple[int, str] | None:
    host = headers.get("host", "")
    if not known(host):
        return 421, "This server does not have that name. Open the link that plaudit printed.\n"
    if method in ("GET", "HEAD"):
        return None
    if method != "POST":
        return 405, "Only GET and POST are possible.\n"
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    ours = origin in (f"http://{host}", f"https://{host}") if origin is not None else site is not None
    if not ours or site not in (None, "same-origin"):
        return 403, "This request does not come from a page of this server.\n"
    length = headers.get("content-length", "")  # without one the body could be of any length
    if not length.isdecimal() or int(length) > LARGEST or "transfer-encoding" in headers:
        return 413, f"Forms have at most {LARGEST} bytes.\n"
    return None
