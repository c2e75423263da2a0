"""Artifacts: files whole or absent, checked by SHA-256, never outside their folder; in a folder and in S3."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from phasewatch.errors import InvalidInput, NotFound, Unavailable
from phasewatch.storage.artifacts import Artifacts

CONTENT = os.urandom(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "run/0-0000000100.safetensors"

LEAVING = [
    "",
    "/etc/passwd",
    "..",
    "../secret",
    "run/../../secret",
    "run/..",
    "./run",
    "run//file",
    "run/",
    "/run",
    "%2e%2e/secret",
    "run/%2e%2e/%2e%2e/secret",
    "..%2fsecret",
    "run\\..\\secret",
    "run/a\x00b",
    "run/a\nb",
    "C:/secret",
    "file:///etc/passwd",
    "s3://other/bucket",
    "run/.hidden",
    "-rf",
    "~/secret",
    "$HOME",
    "run/ｅ",
    "*",
]


def s3_options(endpoint: str) -> dict[str, Any]:
    return {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "eu-west-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 2},
    }


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """An empty artifacts folder, on disk, then in S3."""
    if request.param == "folder":
        return Artifacts(str(tmp_path / "artifacts"))
    options = s3_options(request.getfixturevalue("s3_endpoint"))
    bucket = f"bucket-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}"
    s3fs.S3FileSystem(**options).mkdir(bucket)
    return Artifacts(f"s3://{bucket}/artifacts", **options)


class TestEverywhere:
    def test_what_is_read_is_what_was_written(self, store: Artifacts) -> None:
        stored = store.put(NAME, CONTENT)
        assert (stored.name, stored.size_bytes, stored.sha256) == (NAME, 100_000, SHA256)
        assert store.get(NAME) == CONTENT
        assert store.get(NAME, SHA256) == CONTENT

    def test_nothing_is_something(self, store: Artifacts) -> None:
        assert store.put("run/empty", b"").size_bytes == 0
        assert store.get("run/empty", hashlib.sha256(b"").hexdigest()) == b""

    def test_the_same_name_again_replaces_it(self, store: Artifacts) -> None:
        store.put(NAME, b"a longer content")
        store.put(NAME, b"short")
        assert store.get(NAME) == b"short"

    def test_damage_is_seen(self, store: Artifacts) -> None:
        store.put(NAME, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
        with pytest.raises(Unavailable, match=f"artifact {NAME} is damaged"):
            store.get(NAME, SHA256)

    def test_what_is_missing_is_named(self, store: Artifacts) -> None:
        with pytest.raises(NotFound, match=f"artifact {NAME} is not in"):
            store.get(NAME)

    def test_deleting_says_how_much_it_freed_and_may_be_repeated(self, store: Artifacts) -> None:
        store.put(NAME, CONTENT)
        assert [store.delete(NAME) for _ in range(2)] == [100_000, 0]
        with pytest.raises(NotFound):
            store.get(NAME)

    def test_a_folder_goes_with_all_in_it_and_others_stay(self, store: Artifacts) -> None:
        for number in range(3):
            store.put(f"run/{number}", CONTENT)
        store.put("run-2/0", CONTENT)
        assert [store.delete_folder("run") for _ in range(2)] == [300_000, 0]
        assert store.get("run-2/0") == CONTENT
        with pytest.raises(NotFound):
            store.get("run/0")

    def test_a_folder_written_after_it_was_looked_at_goes_whole(self, store: Artifacts) -> None:
        store.put("run/0", CONTENT)
        store.delete_folder("run")
        store.put("run/1", CONTENT)
        store.put("run/2", CONTENT)
        assert store.delete_folder("run") == 200_000


class TestS3:
    def test_another_process_files_are_seen(self, s3_endpoint: str) -> None:
        """A listing that one process keeps would miss what another one wrote."""
        options = s3_options(s3_endpoint) | {"skip_instance_cache": True}
        s3fs.S3FileSystem(**options).mkdir("shared")
        ours, theirs = (Artifacts("s3://shared/artifacts", **options) for _ in range(2))
        ours.put("run/0", CONTENT)
        assert ours.delete_folder("other") == 0
        theirs.put("run/1", CONTENT)
        assert ours.get("run/1") == CONTENT
        assert ours.delete_folder("run") == 200_000
        theirs.put("run/2", CONTENT)
        assert ours.delete("run/2") == 100_000
        theirs.put("run/3", CONTENT)
        assert ours.delete_folder("run") == 100_000

    def test_a_server_out_of_reach_is_unavailable_and_not_missing(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            store = Artifacts("s3://bucket/x", **s3_options(f"http://127.0.0.1:{closed.getsockname()[1]}"))
            for use in (lambda: store.get(NAME), lambda: store.put(NAME, CONTENT)):
                with pytest.raises(Unavailable, match=f"artifact {NAME}"):
                    use()

    def test_a_bucket_that_is_not_there(self, s3_endpoint: str) -> None:
        store = Artifacts("s3://missing/x", **s3_options(s3_endpoint))
        with pytest.raises(Unavailable, match="could not be written"):
            store.put(NAME, CONTENT)
        with pytest.raises(NotFound):
            store.get(NAME)


class TestFolder:
    @pytest.mark.parametrize("name", LEAVING)
    def test_a_name_that_could_leave_the_folder_is_refused(self, artifacts: Artifacts, name: str) -> None:
        for use in (artifacts.get, artifacts.delete, artifacts.delete_folder, lambda name: artifacts.put(name, b"x")):
            with pytest.raises(InvalidInput, match="leaves the artifacts folder"):
                use(name)

    def test_is_made_when_something_is_put_into_it(self, tmp_path: Path) -> None:
        store = Artifacts(str(tmp_path / "new" / "folder"))
        assert not (tmp_path / "new").exists()
        store.put(NAME, CONTENT)
        assert (tmp_path / "new" / "folder" / NAME).read_bytes() == CONTENT

    def test_may_be_given_as_an_address(self, tmp_path: Path) -> None:
        Artifacts(f"file://{tmp_path}/a").put(NAME, CONTENT)
        assert Artifacts(str(tmp_path / "a")).get(NAME, SHA256) == CONTENT

    def test_may_move(self, artifacts: Artifacts, tmp_path: Path) -> None:
        artifacts.put(NAME, CONTENT)
        moved = (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
        assert Artifacts(str(moved)).get(NAME, SHA256) == CONTENT

    def test_nothing_is_left_beside_a_file(self, artifacts: Artifacts, tmp_path: Path) -> None:
        artifacts.put(NAME, CONTENT)
        artifacts.put(NAME, b"again")
        assert [path.name for path in (tmp_path / "artifacts" / "run").iterdir()] == [NAME.split("/")[1]]

    def test_written_by_many_at_once_it_is_one_of_theirs(self, artifacts: Artifacts) -> None:
        contents = [bytes([number]) * 200_000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda content: artifacts.put(NAME, content), contents * 4))
        assert artifacts.get(NAME) in contents

    def test_a_full_or_unwritable_disk_is_unavailable_and_leaves_the_old_file(
        self, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifacts.put(NAME, CONTENT)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match=rf"artifact {NAME} \(5 bytes\) could not be written.*No space left"):
            artifacts.put(NAME, b"other")
        monkeypatch.undo()
        assert artifacts.get(NAME, SHA256) == CONTENT
        assert len(list((tmp_path / "artifacts" / "run").iterdir())) == 1

    def test_a_file_where_a_folder_should_be_is_unavailable(self, artifacts: Artifacts) -> None:
        artifacts.put("run", CONTENT)
        with pytest.raises(Unavailable, match="could not be written"):
            artifacts.put(NAME, CONTENT)
        with pytest.raises(Unavailable, match="could not be read"):
            artifacts.get(NAME)
