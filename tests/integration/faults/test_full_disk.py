"""A full disk below the embedded event log: writes are refused, lists come, and nothing is lost when there is room."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.shop import fill
from e2e.stack import Stack, running_stack, until
from e2e.traffic import Traffic, stored_likes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

DISK = "48m"
BLOCK = 64 * 1024
REFUSED_WRITES = 20


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose log lies on a small disk of its own, in a mount namespace that ends with it."""
    log = tmp_path / "log"
    log.mkdir()
    unshare = shutil.which("unshare")
    assert unshare, "unshare is not installed: apt-get install util-linux"
    mount = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
    inside = (unshare, "--map-root-user", "--mount", "sh", "-c", mount, str(log))
    with running_stack(tmp_path, inside=inside) as stack:
        fill(stack)
        yield stack


def test_a_full_log_refuses_writes_and_goes_on_when_there_is_room(stack: Stack) -> None:
    supervisor = stack.state()["supervisor_pid"]
    filler = Path(f"/proc/{supervisor}/root{stack.data_dir}/log/filler")
    with Traffic(stack).flowing() as seen:
        until(lambda: len(seen.writes) > 10, within_s=30, what="visitors come")
        _fill_up(filler)
        begun = len(seen.writes)
        until(
            lambda: sum(answer.status == 503 for answer in seen.writes[begun:]) >= REFUSED_WRITES,
            within_s=60,
            what="writes are refused",
        )
        filler.unlink()
        freed = len(seen.writes)
        until(
            lambda: sum(answer.status == 201 for answer in seen.writes[freed:]) >= REFUSED_WRITES,
            within_s=30,
            what="writes are taken again",
        )
    assert set(seen.statuses(seen.reads)) == {200}
    assert set(seen.statuses(seen.writes)) == {201, 503}
    for visitor, likes in seen.likes.items():
        until(
            lambda: sorted(stored_likes(stack, visitor)) == sorted(likes),  # noqa: B023 - used at once
            within_s=10,
            what="each like is stored, once",
        )


def _fill_up(filler: Path) -> None:
    """Write until nothing more fits, first in large pieces, then in small ones."""
    with filler.open("wb", buffering=0) as file:
        for size in (BLOCK, 1):
            while _fits(file.fileno(), size):
                pass


def _fits(descriptor: int, size: int) -> bool:
    try:
        os.write(descriptor, bytes(size))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return False
        raise
    return True
