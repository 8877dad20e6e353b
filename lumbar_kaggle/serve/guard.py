"""Who is answered, and what browsers are told to be careful about."""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lumbar_kaggle.core.errors import InputError

TOKEN = r"[A-Za-z0-9_-]{16,256}"  # fits into a cookie and an address as it is, and cannot be guessed
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # pictures of patients stay out of the browser's cache
}


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone; of names only ``localhost`` is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(host: str, token: str | None) -> None:
    """Raise `InputError` where an address that others reach has no token, or the token is none."""
    if token is None and not is_loopback(host):
        raise InputError(f"--host {host}: others reach this address; give --token as well, which they then need")
    if token is not None and not re.fullmatch(TOKEN, token):
        raise InputError("--token: 16 or more letters, digits, - or _ are wanted; openssl rand -hex 16 makes some")


class Guard:
    """Answers only requests to read, that name this server as their host and bring the token if there is one: as a
    bearer, as ``?token=``, or as the cookie that is set by either. A page of another site whose name was made to lead
    here, to read what only this machine may, names itself as the host."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app, self.token, self.loopback = app, token, is_loopback(host)
        self.names = {"localhost", host.lower()} | (set() if self.loopback else {socket.gethostname().lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, refused = Headers(scope=scope), None
        cookie = f"lumbar-{(scope.get('server') or ('', 0))[1]}"  # cookies are of a host, whatever the port
        if not self._names_us(headers.getlist("host")):
            refused = PlainTextResponse("This is not the server of that name.\n", 421)
        elif scope["method"] not in ("GET", "HEAD"):
            refused = PlainTextResponse("Only reading is possible here.\n", 405, {"allow": "GET, HEAD"})
        elif not self._knows(scope, headers, cookie):
            sentence = "A token is needed: add ?token=… to the address, or send it as Authorization: Bearer …\n"
            refused = PlainTextResponse(sentence, 401, {"www-authenticate": "Bearer"})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                if self.token and refused is None and f"{cookie}={self.token}" not in headers.get("cookie", ""):
                    answer.append("set-cookie", f"{cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/")
            await send(message)

        await (refused or self.app)(scope, receive, send_with_headers)

    def _names_us(self, given: list[str]) -> bool:
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?", given[0]) if len(given) == 1 else None
        if not found:
            return False
        name = found[1].strip("[]").lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        # No name leads here by way of a number; on the loopback it is one of this machine's own.
        return address.is_loopback or not self.loopback

    def _knows(self, scope: Scope, headers: Headers, cookie: str) -> bool:
        if self.token is None:
            return True
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        bearer = re.fullmatch(r"Bearer +(\S+)", headers.get("authorization", ""), re.IGNORECASE)
        given += [bearer[1]] if bearer else []
        given += re.findall(rf"(?:^|;) *{cookie}=([^; ]+)", headers.get("cookie", ""))
        return _one_is(given, self.token)


def _one_is(given: Iterable[str], token: str) -> bool:
    """Compare in a time that says nothing of how far they agree."""
    return any(hmac.compare_digest(one.encode(), token.encode()) for one in given)
