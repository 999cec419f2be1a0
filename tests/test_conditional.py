"""An object under conditions: what the lease rests on, asked of the servers themselves."""

import threading

import pytest
from bucket_helpers import objects

from vadclip.features.conditional import Conditional, GoogleObject, PreconditionError, S3Object, conditional


def test_conditions_are_the_servers(bucket: str) -> None:
    """A name may hold what an address quotes."""
    thing = conditional(f"{bucket}/a été/thing#1%20?=")
    assert isinstance(thing, GoogleObject if bucket.startswith("gs:") else S3Object)
    with pytest.raises(FileNotFoundError):
        thing.read()
    for never in (lambda: thing.replace(b"none", thing.other_tag), lambda: thing.delete(thing.other_tag)):
        with pytest.raises(PreconditionError):
            never()
    first = thing.create(b"one")
    with pytest.raises(PreconditionError):
        thing.create(b"two")
    second = thing.replace(b"two\r\n--", first)
    assert second != first
    for refused in (
        lambda: thing.replace(b"three", first),
        lambda: thing.replace(b"three", thing.other_tag),
        lambda: thing.delete(first),
        lambda: thing.delete(thing.other_tag),
    ):
        with pytest.raises(PreconditionError):
            refused()
    assert thing.read() == (b"two\r\n--", second)
    assert list(objects(bucket)) == ["a été/thing#1%20?="]
    thing.delete(second)
    with pytest.raises(FileNotFoundError):
        thing.read()
    with pytest.raises(PreconditionError):
        thing.delete(second)


@pytest.mark.parametrize("change", ["create", "replace", "delete"])
def test_of_many_at_once_the_server_lets_one_through(bucket: str, change: str) -> None:
    for number in range(5):
        thing = conditional(f"{bucket}/{number}")
        tag = thing.create(b"there") if change != "create" else ""
        go, through = threading.Barrier(8), []

        def compete(
            thing: Conditional = thing, tag: str = tag, go: threading.Barrier = go, through: list = through
        ) -> None:
            go.wait()
            try:
                if change == "create":
                    through.append(thing.create(b"mine"))
                elif change == "replace":
                    through.append(thing.replace(b"mine", tag))
                else:
                    through.append(thing.delete(tag))
            except PreconditionError:
                pass

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(through) == 1
