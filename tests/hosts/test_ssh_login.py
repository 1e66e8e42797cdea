"""How one gets in: keys, certificates, the agent, aliases of the ssh config and jump hosts. Never a password."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.hosts.ssh import SshPlace
from reconciler.hosts.ssh_dial import Stop, stops
from reconciler.hosts.ssh_words import Trouble
from tests.hosts.conftest import Hosts, refusal, until
from tests.sshd import Sshd, make_key

pytestmark = pytest.mark.real("sshd", "ssh-keygen")

needs_agent = pytest.mark.real("ssh-agent", "ssh-add")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent of the test, in SSH_AUTH_SOCK."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    asyncio.run(until(socket.exists))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield socket
    process.terminate()
    process.wait(10)


def encrypt(key: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True, capture_output=True)


def copied(sshd: Sshd, folder: Path) -> Path:
    """A copy of the key that is let in, to be changed."""
    for end in ("", ".pub"):
        shutil.copy(f"{sshd.key}{end}", f"{folder / 'key'}{end}")
    return folder / "key"


async def test_a_key_with_a_passphrase_needs_an_agent(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """Without an agent it is said which key, why and what to do, and the host is not asked."""
    key = copied(sshd, tmp_path)
    encrypt(key)
    before = sshd.visits()
    said = await refusal(hosts(sshd, key_path=str(key)))
    assert f"the key {key} has a passphrase and no agent (SSH_AUTH_SOCK is not set) does not hold it: `ssh-add {key}`" in said
    assert sshd.visits() == before


@needs_agent
@pytest.mark.parametrize("public_beside", [True, False])
async def test_an_agent_signs_for_a_key_with_a_passphrase(
    hosts: Hosts, sshd: Sshd, tmp_path: Path, agent: Path, public_beside: bool
) -> None:
    """A key that is named and locked is used through the agent, and the agent's other keys are not offered."""
    for number in range(7):  # more than sshd would stand
        subprocess.run(["ssh-add", "-q", str(make_key(tmp_path / f"other{number}"))], check=True, capture_output=True)
    key = copied(sshd, tmp_path)
    subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
    encrypt(key)
    if not public_beside:
        key.with_suffix(".pub").unlink()
    failed = sshd.log().count("Failed publickey")
    assert (await hosts(sshd, key_path=str(key)).run("echo in", 20)).out == b"in\n"
    assert sshd.log().count("Failed publickey") == failed


@needs_agent
async def test_the_agent_s_keys_are_used_when_no_key_is_named(hosts: Hosts, sshd: Sshd, agent: Path) -> None:
    """Without `key:` and without default keys, what the agent holds is offered."""
    host = hosts(sshd, key_path="")
    assert "there is no key to log in with" in await refusal(host)
    subprocess.run(["ssh-add", "-q", str(sshd.key)], check=True, capture_output=True)
    assert (await hosts(sshd, key_path="").run("echo in", 20)).out == b"in\n"


async def test_a_dead_agent_is_no_agent(hosts: Hosts, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that nobody listens at hurts nothing."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    assert (await hosts(sshd).run("echo in", 20)).out == b"in\n"


async def test_the_default_keys_are_used_when_no_key_is_named(hosts: Hosts, sshd: Sshd, home: Path) -> None:
    """Without `key:` the usual files are tried; without any it is said, and the host is not asked."""
    before = sshd.visits()
    said = await refusal(hosts(sshd, key_path=""))
    assert f"none of {home}/.ssh/id_ed25519" in said and "no agent" in said and "`key_path:`" in said
    assert sshd.visits() == before
    shutil.copy(sshd.key, home / ".ssh" / "id_ed25519")
    assert (await hosts(sshd, key_path="").run("echo in", 20)).out == b"in\n"


async def test_a_key_that_cannot_be_read_is_named(hosts: Hosts, sshd: Sshd, tmp_path: Path) -> None:
    """A missing file and one that is no key are told apart."""
    assert f"the key {tmp_path}/gone cannot be used: no such file" in await refusal(hosts(sshd, key_path=str(tmp_path / "gone")))
    (tmp_path / "text").write_text("hello")
    assert f"the key {tmp_path}/text cannot be used: a key cannot be read" in await refusal(hosts(sshd, key_path=str(tmp_path / "text")))


@pytest.mark.parametrize("beside", [True, False])
async def test_a_certificate_opens(hosts: Hosts, tmp_path: Path, beside: bool) -> None:
    """A key that the host does not know gets in by its certificate, which is beside it or is named."""
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "mine")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "ada", "-n", getpass.getuser(), f"{key}.pub"]
    subprocess.run(words, check=True)
    certificate = Path(f"{key}-cert.pub")
    if not beside:
        certificate = certificate.rename(tmp_path / "elsewhere")
    with Sshd(tmp_path / "sshd", any_command=True, more=f"TrustedUserCAKeys {authority}.pub\n") as sshd:
        host = hosts(sshd, key_path=str(key), cert_path="" if beside else str(certificate))
        assert (await host.run("echo in", 20)).out == b"in\n"


async def test_no_password_is_ever_offered(hosts: Hosts, tmp_path: Path) -> None:
    """Where only passwords are asked for, nothing is tried but the key."""
    with Sshd(tmp_path / "sshd", any_command=True, more="") as sshd:
        text = (sshd.folder / "sshd_config").read_text().replace("PasswordAuthentication no", "PasswordAuthentication yes")
        (sshd.folder / "sshd_config").write_text(text.replace("KbdInteractiveAuthentication no", "KbdInteractiveAuthentication yes"))
        sshd.stop()
        sshd.start()
        assert "none of our keys" in await refusal(hosts(sshd, key_path=str(make_key(tmp_path / "wrong"))))
        assert "Failed password" not in sshd.log() and "keyboard-interactive" not in sshd.log()


async def test_an_alias_of_the_ssh_config(hosts: Hosts, sshd: Sshd, home: Path) -> None:
    """Name, user, port, key, jump host and known hosts come from ~/.ssh/config, with ~ and %-tokens in them."""
    shutil.copy(sshd.key, home / ".ssh" / "cluster_key")
    shutil.copy(sshd.known_hosts, home / ".ssh" / "cluster_hosts")
    (home / ".ssh" / "config").write_text(
        "Host cluster\n"
        "  HostName 127.0.0.1\n"
        f"  Port {sshd.port}\n"
        f"  User {getpass.getuser()}\n"
        "  IdentityFile ~/.ssh/%n_key\n"
        "  UserKnownHostsFile ~/.ssh/cluster_hosts\n"
        "Host nobody\n"
        "  HostName cluster.invalid\n"
    )
    host = hosts.at(SshPlace("cluster"))
    assert (await host.run("echo in", 20)).out == b"in\n"
    assert host.where == "cluster"
    assert "nobody: its name cannot be resolved" in await refusal(hosts.at(SshPlace("nobody", key_path=str(sshd.key))))


async def test_an_alias_of_the_host_key(hosts: Hosts, sshd: Sshd, home: Path) -> None:
    """HostKeyAlias is the name in known_hosts, without a port; a changed key under it is a changed key."""
    (home / ".ssh" / "config").write_text("HostKeyAlias pool\n")
    known = home / ".ssh" / "known_hosts"
    known.write_text(sshd.known_hosts_line(sshd.host_key).replace(f"[127.0.0.1]:{sshd.port}", "pool"))
    assert (await hosts(sshd, known_hosts="").run("echo in", 20)).out == b"in\n"
    known.write_text(sshd.known_hosts_line(make_key(home / "other")).replace(f"[127.0.0.1]:{sshd.port}", "pool"))
    assert "CHANGED" in await refusal(hosts(sshd, known_hosts="", accept_new=True))


@pytest.mark.parametrize("said_by", ["place", "config"])
@pytest.mark.parametrize("jumps", [1, 2])
async def test_jump_hosts(hosts: Hosts, own_sshd: Sshd, home: Path, said_by: str, jumps: int) -> None:
    """One jump host or several, from the manifest or from ProxyJump: the login goes through them, and closing ends all connections."""
    way = ",".join([f"{getpass.getuser()}@127.0.0.1:{own_sshd.port}"] * jumps)
    if said_by == "config":
        (home / ".ssh" / "config").write_text(f"Host target\n  HostName 127.0.0.1\n  ProxyJump {way}\n")
    host = hosts(own_sshd, host="target" if said_by == "config" else "127.0.0.1", jump=way if said_by == "place" else "")
    answers = await asyncio.gather(*(host.run("echo in", 20) for _ in range(10)))
    assert [answer.out for answer in answers] == [b"in\n"] * 10
    assert len(own_sshd.connections()) == jumps + 1
    assert host.connects == 1
    await host.close()
    await until(lambda: own_sshd.connections() == [])


async def test_a_jump_host_that_fails_is_named(hosts: Hosts, sshd: Sshd, own_sshd: Sshd, tmp_path: Path) -> None:
    """What goes wrong on the way is told of the host where it went wrong, and nothing stays open."""
    host = hosts(own_sshd, jump=f"127.0.0.1:{sshd.port}")
    assert f"127.0.0.1:{own_sshd.port}: jump host 127.0.0.1: its host key is in none of" in await refusal(host)
    both = tmp_path / "known_hosts"
    both.write_text(own_sshd.known_hosts.read_text() + sshd.known_hosts.read_text())
    host = hosts(own_sshd, jump=f"127.0.0.1:{sshd.port}", known_hosts=str(both))
    assert "jump host 127.0.0.1: it lets none of our keys in" in await refusal(host)
    await until(lambda: sshd.connections() == [])
    closed = hosts.at(SshPlace("127.0.0.1", 1, jump=f"127.0.0.1:{sshd.port}", key_path=str(sshd.key), known_hosts=str(sshd.known_hosts)))
    assert "127.0.0.1:1: it opened no channel (Connection refused)" in await refusal(closed)
    await until(lambda: sshd.connections() == [])


async def test_a_circle_of_jump_hosts_is_refused(hosts: Hosts, home: Path) -> None:
    """A config in which hosts jump through one another is told, not followed."""
    (home / ".ssh" / "config").write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    assert "the ssh config has a circle" in await refusal(hosts.at(SshPlace("a")))


async def test_a_broken_ssh_config_is_told(hosts: Hosts, home: Path, tmp_path: Path) -> None:
    """The file and the line are named; a config that is named must exist."""
    (home / ".ssh" / "config").write_text("Host a\n  Port many\n")
    said = await refusal(hosts.at(SshPlace("a")))
    assert f"a: the ssh config cannot be read ({home}/.ssh/config line 2: Invalid Port integer value: many)" in said
    assert f"no such file ({tmp_path}/gone" in await refusal(hosts.at(SshPlace("a", config_path=str(tmp_path / "gone"))))


def test_how_jump_hosts_are_written() -> None:
    """As `ssh -J` takes them."""
    assert stops("") == stops("none") == []
    assert stops("a, ada@b:2222,ssh://c,[::1]:23,::1") == [Stop("a"), Stop("b", 2222, "ada"), Stop("c"), Stop("::1", 23), Stop("::1")]
    for wrong in ("a:b", "@", "ada@:22"):
        with pytest.raises(Trouble, match="cannot be read"):
            stops(wrong)


async def test_a_user_that_does_not_exist_is_a_refused_login(hosts: Hosts, sshd: Sshd) -> None:
    """The host does not tell the difference, and neither do we."""
    host = hosts(sshd, user="nobody-here")
    assert f"nobody-here@127.0.0.1:{sshd.port}: it lets none of our keys in" in await refusal(host)
