"""A remote git repository, over https: every outcome of a fetch, and what it leaves behind. test_git_ssh.py has what is ssh's own."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from reconciler.errors import SourceRefused, SourceUnreachable
from reconciler.sources import git_fetch
from reconciler.sources.git import GitSource, GitSpec
from reconciler.sources.watch import Watcher
from tests.githttps import GitHttps, make_certificate
from tests.gitrepo import GitRepo
from tests.sources.listening import Listener, texts

pytestmark = pytest.mark.real("git", "openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHttps]:
    """A server whose certificate the machine trusts; its repositories are below `repos`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with GitHttps(tmp_path / "repos", *certificate) as running:
        yield running


@pytest.fixture
def repo(tmp_path: Path) -> GitRepo:
    return GitRepo(tmp_path / "repos" / "lab.git", bare=True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def source_of(url: str, cache: Path, watcher: Watcher, **spec: object) -> GitSource:
    return GitSource("lab", GitSpec(url, **{"timeout_s": 30, **spec}), ["**/*.yaml"], cache, watcher)  # type: ignore[arg-type]


def packs(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("lab/*.git/objects/pack/*.pack"))


async def test_only_what_is_new_is_fetched(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A first look fetches the branch, one without news asks and fetches nothing, a later one brings what is new."""
    repo.commit({"a.yaml": "one", "large": os.urandom(200_000)})
    source = source_of(server.url("lab.git"), cache, watcher)
    first = await source.look()
    assert (texts(first), first.revision) == ({"a.yaml": "one"}, f"main@sha1:{repo.head}")
    assert await source.look() is first
    assert len(packs(cache)) == 1
    repo.commit({"b/c.yaml": "two"})
    assert texts(await source.look()) == {"a.yaml": "one", "b/c.yaml": "two"}
    assert min(path.stat().st_size for path in cache.glob("lab/*.git/objects/pack/*.pack")) < 10_000


async def test_other_branches_stay_where_they_are(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """Only the branch that is asked for is fetched."""
    repo.commit({"a.yaml": "one"})
    repo.branch("big")
    blob = repo.blob(b"elsewhere")
    repo.commit({"big": "elsewhere"})
    tree = await source_of(server.url("lab.git"), cache, watcher).look()
    assert tree.blob_ids(["**"]).keys() == {"a.yaml"}
    mirror = next(cache.glob("lab/*.git"))
    assert GitRepo.git(repo, "--git-dir", str(mirror), "cat-file", "--batch-check", stdin=f"{blob}\n".encode()) == f"{blob} missing"


async def test_an_empty_repository_is_unreachable_until_it_has_a_commit(
    server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher
) -> None:
    """A repository without a commit is tried again after a back-off, and its first commit is found."""
    async with Listener(source_of(server.url("lab.git"), cache, watcher, interval_s=3600)) as heard:
        await heard.until(lambda h: isinstance(h.error, SourceUnreachable) and "no commit yet" in str(h.error))
        repo.commit({"a.yaml": "one"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})


async def test_a_force_push_hands_out_the_new_tree(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A branch that was moved back is followed, and the trees handed out before still say what they said."""
    first = repo.commit({"a.yaml": "one", "x": "1"})
    repo.commit({"a.yaml": "two", "x": "2"})
    source = source_of(server.url("lab.git"), cache, watcher)
    old = await source.look()
    repo.force(first)
    new = await source.look()
    assert (texts(old), texts(new)) == ({"a.yaml": "two"}, {"a.yaml": "one"})
    assert [tree.read("x").data for tree in (old, new)] == [b"2", b"1"]  # type: ignore[union-attr]


async def test_a_deleted_branch_is_refused(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A branch that went is refused by name, with those that are there, also while the mirror still holds it."""
    repo.commit({"a.yaml": "one"})
    repo.branch("gone")
    source = source_of(server.url("lab.git"), cache, watcher, branch="gone")
    await source.look()
    repo.git("update-ref", "-d", "refs/heads/gone")
    with pytest.raises(SourceRefused, match=r"no branch gone \(it has: main\)"):
        await source.look()


@pytest.mark.parametrize("annotate", [False, True])
async def test_tags_are_followed_to_their_commit(annotate: bool, server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A tag, light or annotated, means its commit."""
    sha = repo.commit({"a.yaml": "one"})
    repo.tag("v1", annotate)
    repo.commit({"a.yaml": "two"})
    tree = await source_of(server.url("lab.git"), cache, watcher, tag="v1").look()
    assert (texts(tree), tree.revision) == ({"a.yaml": "one"}, f"v1@sha1:{sha}")


async def test_a_pinned_commit_is_fetched_once(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A pinned commit that no ref stands at any more is found through a branch; then the server is never asked again."""
    sha = repo.commit({"a.yaml": "one"})
    repo.commit({"a.yaml": "two"})
    source = source_of(server.url("lab.git"), cache, watcher, commit=sha)
    tree = await source.look()
    assert (texts(tree), tree.revision) == ({"a.yaml": "one"}, f"sha1:{sha}")
    asked = len(server.seen)
    assert await source.look() is tree
    assert texts(await source_of(server.url("lab.git"), cache, watcher, commit=sha).look()) == {"a.yaml": "one"}
    assert len(server.seen) == asked
    with pytest.raises(SourceRefused, match="on no branch and no tag"):
        await source_of(server.url("lab.git"), cache, watcher, commit="a" * 40).look()


async def test_a_repository_that_appears_later(server: GitHttps, cache: Path, watcher: Watcher, tmp_path: Path) -> None:
    """A repository that is not there is refused and asked for again, and read once it is there."""
    async with Listener(source_of(server.url("lab.git"), cache, watcher, interval_s=3600)) as heard:
        await heard.until(lambda h: isinstance(h.error, SourceRefused) and "no such repository" in str(h.error))
        GitRepo(tmp_path / "repos" / "lab.git", bare=True).commit({"a.yaml": "one"})
        await heard.until(lambda h: texts(h.tree) == {"a.yaml": "one"})


async def test_a_server_that_never_answers_delays_nobody(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A look at a server that accepts and is silent ends at its time-out; meanwhile others are looked at, and no process is left."""
    repo.commit({"a.yaml": "one"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        dead = GitSource("dead", GitSpec(f"https://127.0.0.1:{silent.getsockname()[1]}/x", timeout_s=2), ["*"], cache, watcher)
        look = asyncio.ensure_future(dead.look())
        assert texts(await source_of(server.url("lab.git"), cache, watcher).look()) == {"a.yaml": "one"}
        assert not look.done()
        with pytest.raises(SourceUnreachable, match="did not answer within 2 s"):
            await look
        assert 1.9 < time.monotonic() - began < 5
    assert fetches() == []


async def test_a_look_that_is_cancelled_ends_its_process(cache: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the daemon does not wait for a server, and leaves no process behind. While it runs, it shows and knows no secret."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "s3cret")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = source_of(f"https://ada:s3cret@127.0.0.1:{silent.getsockname()[1]}/x", cache, watcher)
        look = asyncio.ensure_future(source.look())
        connection, _ = await asyncio.to_thread(silent.accept)
        (process,) = fetches()
        assert [b"s3cret" in Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")] == [False, False]
        began = time.monotonic()
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        connection.close()
        assert (look.cancelled(), time.monotonic() - began < 1, fetches()) == (True, True, [])


def fetches() -> list[int]:
    """Processes of ours that fetch now."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"git_fetch" in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError):
            continue  # it ended while we looked
    return found


async def test_a_server_that_is_not_there_is_unreachable(cache: Path, watcher: Watcher) -> None:
    """A refused connection and an unknown name say nothing about the repository."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"https://127.0.0.1:{port}/x", "https://no-such-host.invalid/x"):
        with pytest.raises(SourceUnreachable, match="cannot be reached"):
            await source_of(url, cache, watcher).look()


@pytest.mark.parametrize("problem", ["nobody vouches", "another name"])
async def test_an_untrusted_certificate_is_refused(
    problem: str,
    repo: GitRepo,
    cache: Path,
    watcher: Watcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: tuple[Path, Path],
) -> None:
    """A certificate that nobody vouches for, or for another name, ends the look; no git configuration can change that."""
    repo.commit({"a.yaml": "one"})
    own = make_certificate(tmp_path / "own", "127.0.0.2" if problem == "another name" else "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(own[0] if problem == "another name" else certificate[0]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    (tmp_path / ".gitconfig").write_text("[http]\n\tsslVerify = false\n")
    with GitHttps(tmp_path / "repos", *own) as server:
        with pytest.raises(SourceRefused, match=r"the certificate of 127\.0\.0\.1"):
            await source_of(server.url("lab.git"), cache, watcher).look()
        assert server.seen == []


async def test_credentials_open_and_are_never_told(
    server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """A login in the url is used, and stands in no message and in no file; a wrong one is refused, and one that is missing."""
    repo.commit({"a.yaml": "one"})
    with GitHttps(tmp_path / "repos", *certificate, login="ada:s3cret") as private:
        assert texts(await source_of(private.url("lab.git", "ada:s3cret"), cache, watcher).look()) == {"a.yaml": "one"}
        for login in ("", "ada:wr0ng"):
            with pytest.raises(SourceRefused, match="asks for a login") as refused:
                await source_of(private.url("lab.git", login), cache, watcher).look()
            assert "wr0ng" not in str(refused.value)
        elsewhere = GitHttps(tmp_path / "repos", *certificate, redirect=private.url("").rstrip("/"))
        with elsewhere, pytest.raises(SourceRefused, match="asks for a login"):
            await source_of(elsewhere.url("lab.git", "ada:s3cret"), cache, watcher).look()
    with pytest.raises(SourceUnreachable) as gone:
        await source_of(private.url("lab.git", "ada:s3cret"), cache, watcher).look()
    assert "s3cret" not in str(gone.value)
    held = [path for path in cache.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert held == []


async def test_a_damaged_mirror_is_made_anew(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A mirror that lost its objects or its head is no reason to stop: at the latest the second look fetches everything again."""
    repo.commit({"a.yaml": "one"})
    await source_of(server.url("lab.git"), cache, watcher).look()
    mirror = next(cache.glob("lab/*.git"))
    for damage in ("objects/pack/*", "HEAD"):
        for path in mirror.glob(damage):
            path.unlink()
        assert texts(await source_of(server.url("lab.git"), cache, watcher).look()) == {"a.yaml": "one"}


async def test_a_mirror_that_lacks_a_file_is_made_anew(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """A mirror whose newest commit is whole, but not the files below it, fails one look and is fetched anew by the next."""
    repo.commit({"a.yaml": "one"})
    source = source_of(server.url("lab.git"), cache, watcher)
    await source.look()
    first = packs(cache)
    repo.commit({"b.yaml": "two"})
    await source.look()
    for path in cache.glob(f"lab/*.git/objects/pack/{Path(first[0]).stem}.*"):
        path.unlink()
    restarted = source_of(server.url("lab.git"), cache, watcher)
    with pytest.raises(SourceUnreachable, match="cannot be read"):
        await restarted.look()
    assert texts(await restarted.look()) == {"a.yaml": "one", "b.yaml": "two"}


async def test_a_worn_mirror_is_made_anew(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """After many fetches the next one starts over, so that packs do not pile up; a look without news leaves them alone."""
    repo.commit({"a.yaml": "0"})
    source = source_of(server.url("lab.git"), cache, watcher)
    tree = await source.look()
    folder = next(cache.glob("lab/*.git/objects/pack"))
    for number in range(git_fetch.PACKS_MAX + 1):
        (folder / f"pack-{number:040}.pack").write_bytes(b"")
    assert await source.look() is tree
    assert len(packs(cache)) > git_fetch.PACKS_MAX
    repo.commit({"a.yaml": "1"})
    assert texts(await source.look()) == {"a.yaml": "1"}
    assert len(packs(cache)) == 1


async def test_leftovers_are_removed(server: GitHttps, repo: GitRepo, cache: Path, watcher: Watcher) -> None:
    """What killed fetches left, and the mirror of another url, go with the next fetch; what is kept is for the daemon's user only."""
    repo.commit({"a.yaml": "one"})
    await source_of(server.url("lab.git"), cache, watcher).look()
    mirror = next(cache.glob("lab/*.git"))
    leftovers = [
        mirror / "objects/pack/pack_git2_abc",
        mirror / "refs/reconciler/tip.lock",
        cache / "lab/0123.git/HEAD",
        Path(f"{mirror}.new/HEAD"),
    ]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    repo.commit({"a.yaml": "two"})
    assert texts(await source_of(server.url("lab.git"), cache, watcher).look()) == {"a.yaml": "two"}
    assert [path for path in leftovers if path.exists()] == []
    assert [oct(path.stat().st_mode & 0o777) for path in (cache / "lab", mirror)] == ["0o700", "0o700"]


async def test_more_than_the_limit_is_refused(server: GitHttps, repo: GitRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends more than we are willing to keep is stopped."""
    repo.commit({"a.yaml": "one", "large": os.urandom(3_000_000)})
    monkeypatch.setattr(git_fetch, "RECEIVED_BYTES_MAX", 1_000_000)
    order = git_fetch.Order(
        "source lab", server.url("lab.git"), "branch", "main", str(tmp_path / "m/x.git"), str(tmp_path / "home"), "", "", 30
    )
    pygit2.settings.set_ssl_cert_locations(os.environ["SSL_CERT_FILE"], None)
    answer = await asyncio.to_thread(git_fetch.translated, lambda: git_fetch.fetch(order), "source lab")
    assert answer.keys() == {"refused"} and "in one fetch" in answer["refused"]
