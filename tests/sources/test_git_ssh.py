"""A git repository behind a real sshd: who is believed, who is let in, and what is said when not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceRefused
from reconciler.sources.git import GitSource, GitSpec
from reconciler.sources.watch import Watcher
from tests.gitrepo import GitRepo
from tests.sources.listening import texts
from tests.sshd import Sshd, make_key

pytestmark = pytest.mark.real("git", "sshd", "ssh-keygen")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("ssh") / "sshd") as running:
        yield running


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    made = GitRepo(tmp_path / "repo", bare=True)
    made.commit({"a.yaml": "one"})
    return made


class Asking:
    """Makes sources of one repository, with the right key and the right known_hosts unless told otherwise."""

    def __init__(self, sshd: Sshd, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
        self.sshd, self.repo, self.cache, self.watcher = sshd, repo, cache, watcher

    def source(self, **changed: object) -> GitSource:
        spec = {"url": self.sshd.url(self.repo.path), "deploy_key": self.sshd.key, "known_hosts": self.sshd.known_hosts, "timeout_s": 30}
        return GitSource("lab", GitSpec(**{**spec, **changed}), ["*.yaml"], self.cache, self.watcher)  # type: ignore[arg-type]

    async def refusal(self, **changed: object) -> str:
        with pytest.raises(SourceRefused) as refused:
            await self.source(**changed).look()
        return str(refused.value)


@pytest.fixture
def asking(sshd: Sshd, repo: GitRepo, tmp_path: Path, watcher: Watcher) -> Asking:
    return Asking(sshd, repo, tmp_path / "cache", watcher)


async def test_a_deploy_key_opens_the_repository(asking: Asking) -> None:
    """With the right key and a known host the commit is fetched, and later ones after it."""
    source = asking.source()
    assert texts(await source.look()) == {"a.yaml": "one"}
    assert await source.look() is await source.look()
    asking.repo.commit({"a.yaml": "two"})
    assert texts(await source.look()) == {"a.yaml": "two"}


async def test_a_host_known_by_a_hashed_name_or_a_pattern_is_believed(asking: Asking, tmp_path: Path) -> None:
    """What OpenSSH would believe is believed: the file is read by its rules."""
    pattern = tmp_path / "pattern"
    pattern.write_text("# ours\n" + asking.sshd.known_hosts.read_text().replace("127.0.0.1", "127.0.0.*") + "broken line\n")
    assert texts(await asking.source(known_hosts=pattern).look()) == {"a.yaml": "one"}


async def test_an_unknown_host_is_not_even_asked(asking: Asking, tmp_path: Path) -> None:
    """A host that known_hosts does not name, or no such file, is refused with the cure; nothing was sent to it."""
    before = asking.sshd.log()
    empty = tmp_path / "empty"
    empty.write_text("")
    said = await asking.refusal(known_hosts=empty)
    assert f"has no key of [127.0.0.1]:{asking.sshd.port}" in said and f"ssh-keyscan -p {asking.sshd.port} 127.0.0.1" in said
    assert "no host is trusted" in await asking.refusal(known_hosts=tmp_path / "none")
    assert asking.sshd.log() == before


async def test_the_users_own_known_hosts_is_the_default(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without known_hosts it is ~/.ssh/known_hosts that counts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/.ssh/known_hosts" in await asking.refusal(known_hosts=None)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(asking.sshd.known_hosts.read_text())
    assert texts(await asking.source(known_hosts=None).look()) == {"a.yaml": "one"}


@pytest.mark.parametrize(("kind", "expected"), [("ed25519", "is another one than"), ("rsa", "no key of the kind")])
async def test_a_changed_host_key_is_refused(kind: str, expected: str, asking: Asking, tmp_path: Path) -> None:
    """Another key than the known one, of the same or of another kind, ends the look before the deploy key is shown."""
    known = tmp_path / "known"
    known.write_text(asking.sshd.known_hosts_line(make_key(tmp_path / "other", kind)))
    before = asking.sshd.log().count("publickey")
    assert expected in await asking.refusal(known_hosts=known)
    assert asking.sshd.log().count("publickey") == before


async def test_a_revoked_host_key_is_refused(asking: Asking, tmp_path: Path) -> None:
    """A key that the file both names and revokes is not believed."""
    known = tmp_path / "known"
    line = asking.sshd.known_hosts.read_text()
    known.write_text(f"{line}@revoked {line}")
    assert "has no key of" in await asking.refusal(known_hosts=known)


async def test_a_wrong_deploy_key_is_refused(asking: Asking, tmp_path: Path) -> None:
    """A key that the server does not know, a protected one, none, a missing file, one that others may read: each says so."""
    wrong = make_key(tmp_path / "wrong")
    assert f"the server refused the deploy key {wrong}" in await asking.refusal(deploy_key=wrong)
    locked = make_key(tmp_path / "locked", passphrase="a secret")
    assert "without a passphrase" in await asking.refusal(deploy_key=locked)
    assert "deploy_key" in await asking.refusal(deploy_key=None)
    assert "cannot be read: No such file" in await asking.refusal(deploy_key=tmp_path / "none")
    os.chmod(wrong, 0o644)
    assert f"other users may read the deploy key {wrong}" in await asking.refusal(deploy_key=wrong)


async def test_a_repository_that_is_not_there_is_refused(asking: Asking, tmp_path: Path) -> None:
    """What the server's git says of a missing repository reaches the person."""
    assert "there is no such repository" in await asking.refusal(url=asking.sshd.url(tmp_path / "none"))


async def test_the_daemons_environment_and_git_configuration_do_not_count(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an agent, nor GIT_*, nor a configuration that sends us elsewhere has a say in a fetch."""
    config = tmp_path / ".gitconfig"
    config.write_text(f'[url "file:///nowhere"]\n\tinsteadOf = ssh://\n[url "{tmp_path}/x"]\n\tinsteadOf = {asking.sshd.url(Path("/"))}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    assert texts(await asking.source().look()) == {"a.yaml": "one"}
