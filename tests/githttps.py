"""A real git server over https on a loopback port: `git http-backend` behind a small server with a certificate of our own."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BACKEND = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True).stdout.strip(), "git-http-backend")


def make_certificate(folder: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate for this address, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    words += ["-subj", f"/CN={host}", "-addext", f"subjectAltName=IP:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key


@dataclass
class GitHttps:
    """Serves the repositories below `root`. With `login` ("user:password") only to who shows it. Use `with`."""

    root: Path
    certificate: Path
    key: Path
    login: str = ""
    redirect: str = ""  # every request is sent on to this url
    seen: list[tuple[str, str]] = field(default_factory=list)  # (path, Authorization header) of each request

    def __enter__(self) -> GitHttps:
        outer = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that breaks off is a test's purpose
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, name: str, login: str = "") -> str:
        """The url of the repository `name` below the root."""
        return f"https://{login + '@' if login else ''}127.0.0.1:{self._server.server_address[1]}/{name}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request, by git's own program (git-http-backend(1))."""
        shown = request.headers.get("Authorization", "")
        self.seen.append((request.path, shown))
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.redirect:
            return _reply(request, 302, [("Location", self.redirect + request.path)], b"")
        if self.login and shown != f"Basic {b64encode(self.login.encode()).decode()}":
            return _reply(request, 401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
        path, _, query = request.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run([str(BACKEND)], input=body, env=env, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n")) if value]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return _reply(request, status, [header for header in headers if header[0] != "Status"], content)


def _reply(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
