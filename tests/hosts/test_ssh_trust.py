"""Which host keys are believed: those that known_hosts has, and new ones only on request."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from pathlib import Path

import pytest

from reconciler.hosts.ssh_hostkeys import add
from tests.hosts.conftest import Clock, Hosts, refusal
from tests.sshd import Sshd, make_key

pytestmark = pytest.mark.real("sshd", "ssh-keygen")


def fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True).stdout.split()[1]


async def test_an_unknown_host_is_refused(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """A host that known_hosts does not have is not logged in to; its key, the file and the cure are named. A missing file knows nobody."""
    empty = tmp_path / "known_hosts"
    before = sshd.log().count("publickey")
    for _ in range(2):
        said = await refusal(hosts(sshd, known_hosts=str(empty)))
        assert f"its host key is in none of {empty}: ssh-ed25519 {fingerprint(sshd.host_key)}" in said
        assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {empty}" in said and "known_hosts: accept-new" in said
        empty.write_text("")
    assert sshd.log().count("publickey") == before


@pytest.mark.parametrize("accept_new", [False, True])
async def test_a_changed_host_key_is_refused(hosts: Hosts, sshd: Sshd, tmp_path: Path, accept_new: bool) -> None:
    """A host that shows another key than the known one is refused, also when new hosts are accepted; nothing is written."""
    other = make_key(tmp_path / "other")
    file = tmp_path / "known_hosts"
    file.write_text(sshd.known_hosts_line(other))
    said = await refusal(hosts(sshd, known_hosts=str(file), accept_new=accept_new))
    assert "its host key has CHANGED" in said
    assert fingerprint(sshd.host_key) in said and fingerprint(other) in said
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f {file}" in said
    assert file.read_text() == sshd.known_hosts_line(other)


async def test_a_key_of_another_kind_is_refused(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """When only an rsa key is known, the host's ed25519 key is not taken for new, but for changed."""
    file = tmp_path / "known_hosts"
    file.write_text(sshd.known_hosts_line(make_key(tmp_path / "rsa", kind="rsa")))
    assert "its host key has CHANGED: it shows ssh-ed25519" in await refusal(hosts(sshd, known_hosts=str(file), accept_new=True))
    assert file.read_text().count("\n") == 1


async def test_a_new_host_is_added_once(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """With accept-new an unknown host's key is appended, whoever else does so too, on a line of its own, in a file that only we read."""
    file = tmp_path / "new" / "known_hosts"
    answers = await asyncio.gather(*(hosts(sshd, known_hosts=str(file), accept_new=True).run("echo in", 20) for _ in range(3)))
    assert [answer.out for answer in answers] == [b"in\n"] * 3
    assert (await hosts(sshd, known_hosts=str(file)).run("echo strict", 20)).out == b"strict\n"
    assert file.read_text() == sshd.known_hosts_line(sshd.host_key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_line_is_appended_after_one_without_an_end(tmp_path: Path) -> None:
    """A file whose last line does not end is not spoiled."""
    file = tmp_path / "known_hosts"
    file.write_text("one")
    add(file, "two")
    add(file, "two")
    assert file.read_text() == "one\ntwo\n"


async def test_a_key_that_cannot_be_noted_is_not_accepted(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """Accepting without remembering would accept whoever comes: it is refused."""
    folder = tmp_path / "folder"
    folder.write_text("a file")
    assert "folder" in await refusal(hosts(sshd, known_hosts=str(folder / "known_hosts"), accept_new=True))


@pytest.mark.parametrize("form", ["hashed", "pattern", "plain name", "broken neighbour"])
async def test_known_hosts_is_read_as_openssh_reads_it(hosts: Hosts, sshd: Sshd, tmp_path: Path, form: str) -> None:
    """Hashed names, patterns, a name without port, and lines that cannot be read beside good ones."""
    file = tmp_path / "known_hosts"
    line = sshd.known_hosts_line(sshd.host_key)
    plain = line.replace(f"[127.0.0.1]:{sshd.port}", "127.0.0.1")
    broken = f"@nonsense x\n[127.0.0.1]:{sshd.port} ssh-ed25519 AAAA\nword\n{line}"
    pattern = line.replace("127.0.0.1", "127.0.0.*")
    file.write_text({"hashed": line, "pattern": pattern, "plain name": plain, "broken neighbour": broken}[form])
    if form == "hashed":
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
        assert "127.0.0.1" not in file.read_text()
    assert (await hosts(sshd, known_hosts=str(file)).run("echo in", 20)).out == b"in\n"


async def test_a_revoked_key_is_refused(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """A key that is marked @revoked is not believed, also when another line has it, and with accept-new."""
    file = tmp_path / "known_hosts"
    line = sshd.known_hosts_line(sshd.host_key)
    file.write_text(f"{line}@revoked {line}")
    assert "revoked" in await refusal(hosts(sshd, known_hosts=str(file), accept_new=True))


async def test_a_host_with_several_keys_is_asked_for_the_known_one(hosts: Hosts, tmp_path: Path) -> None:
    """Of a host that has three keys one is known, of whatever kind, and that one it is asked for."""
    folder = tmp_path / "sshd"
    sshd = Sshd(folder, any_command=True, more=f"HostKey {folder}/rsa\nHostKey {folder}/ecdsa\n")
    with_kinds = [sshd.host_key, *(make_key(folder / kind, kind=kind) for kind in ("rsa", "ecdsa"))]
    file = tmp_path / "known_hosts"
    with sshd:
        for key in with_kinds:
            file.write_text(sshd.known_hosts_line(key))
            assert (await hosts(sshd, known_hosts=str(file)).run("echo in", 20)).out == b"in\n"


@pytest.mark.parametrize("known", [True, False])
async def test_a_host_certificate_counts_by_its_authority(hosts: Hosts, tmp_path: Path, known: bool) -> None:
    """A host with a certificate is believed when known_hosts has its authority; else its plain key is what counts."""
    authority = make_key(tmp_path / "authority")
    sshd = Sshd(tmp_path / "sshd", any_command=True, more=f"HostCertificate {tmp_path}/sshd/host_key-cert.pub\n")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "host", "-h", "-n", "127.0.0.1", str(sshd.host_key)]
    subprocess.run(words, check=True)
    file = tmp_path / "known_hosts"
    file.write_text(f"@cert-authority {sshd.known_hosts_line(authority)}" if known else "")
    with sshd:
        host = hosts(sshd, known_hosts=str(file), accept_new=not known)
        assert (await host.run("echo in", 20)).out == b"in\n"
    assert (sshd.known_hosts_line(sshd.host_key) in file.read_text()) == (not known)


@pytest.mark.parametrize("words", ["UserKnownHostsFile none", "UserKnownHostsFile /dev/null\nStrictHostKeyChecking no"])
async def test_the_ssh_config_cannot_switch_the_check_off(hosts: Hosts, sshd: Sshd, tmp_path: Path, words: str) -> None:
    """asyncssh alone would believe every host then."""
    config = tmp_path / "config"
    config.write_text(f"{words}\n")
    assert "its host key is in none of" in await refusal(hosts(sshd, known_hosts="", config_path=str(config)))


async def test_a_corrected_file_counts_at_the_next_try(hosts: Hosts, sshd: Sshd, tmp_path: Path, clock: Clock) -> None:
    """Nothing is remembered of the file: who follows the cure is let in at the next try."""
    file = tmp_path / "known_hosts"
    host = hosts(sshd, known_hosts=str(file))
    await refusal(host)
    file.write_text(sshd.known_hosts.read_text())
    clock.seconds += 2
    assert (await host.run("echo in", 20)).out == b"in\n"
