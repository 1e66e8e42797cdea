"""Which lines of known_hosts count, compared with OpenSSH's own reading of the same file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.sources.git_hostkeys import trusted_lines
from tests.sshd import make_key

FILE = """\
# a comment
git.example.org,192.0.2.7 ssh-ed25519 AAAA1
*.lab.example.org,!bad.lab.example.org ssh-ed25519 AAAA2
[git.example.org]:2222 ssh-ed25519 AAAA3
h?st ssh-ed25519 AAAA4
@cert-authority *.example.org ssh-ed25519 AAAA5
gone ssh-ed25519 AAAA6
@revoked gone ssh-ed25519 AAAA6
gone ecdsa-sha2-nistp256 AAAA7 a remark
|1|not|base64!
short line
"""


@pytest.mark.parametrize(
    ("host", "port", "keys"),
    [
        ("git.example.org", 22, ["AAAA1"]),
        ("GIT.example.org", 22, ["AAAA1"]),
        ("192.0.2.7", 22, ["AAAA1"]),
        ("git.example.org", 2222, ["AAAA3"]),
        ("git.example.org", 2223, []),
        ("a.lab.example.org", 22, ["AAAA2"]),
        ("bad.lab.example.org", 22, []),
        ("host", 22, ["AAAA4"]),
        ("other.example.org", 22, []),
        ("gone", 22, ["AAAA7"]),
    ],
)
def test_lines_of_one_host(host: str, port: int, keys: list[str]) -> None:
    """Names, patterns, negations, ports and revoked keys count as sshd(8) says; authorities and unreadable lines do not."""
    assert [line.split()[2] for line in trusted_lines(FILE, host, port)] == keys


def test_the_line_has_the_plain_name() -> None:
    """libssh2 gets the host's own name, whatever pattern it was found by."""
    assert trusted_lines(FILE, "a.lab.example.org", 22) == ["a.lab.example.org ssh-ed25519 AAAA2"]
    assert trusted_lines(FILE, "git.example.org", 2222) == ["[git.example.org]:2222 ssh-ed25519 AAAA3"]


@pytest.mark.real("ssh-keygen")
def test_names_hashed_by_openssh(tmp_path: Path) -> None:
    """What `ssh-keygen -H` made of a file is found by the same names, and by no other."""
    kind, key, *_ = make_key(tmp_path / "key").with_suffix(".pub").read_text().split()
    file = tmp_path / "known_hosts"
    file.write_text(f"[host.example.org]:2222 {kind} {key}\nhost.example.org {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    text = file.read_text()
    assert "example" not in text
    assert trusted_lines(text, "host.example.org", 2222) == [f"[host.example.org]:2222 {kind} {key}"]
    assert trusted_lines(text, "host.example.org", 22) == [f"host.example.org {kind} {key}"]
    assert trusted_lines(text, "host.example.com", 22) == []
