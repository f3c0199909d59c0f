"""The same volume published and unpublished again and again, as by a kubelet that changes its mind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.node import Node, VolumeOf
from tests.support.pods import until_done

_VOLUMES, _TIMES = 6, 80


def test_volumes_are_published_again_and_again(fresh_node: Node) -> None:
    """Right after its unpublishing a volume can be published again, any number of times and beside others: what is still
    said of an earlier mount does the next one no harm."""

    def again(volume: VolumeOf) -> None:
        for number in range(_TIMES):
            until_done(volume.publish)
            if number % 8 == 0:
                (volume.target / "report").write_text(str(number))
                assert (volume.target / "report").read_text() == str(number)
            until_done(volume.unpublish)
        volume.gone()

    with ThreadPoolExecutor(_VOLUMES) as pool:
        for done in [pool.submit(again, fresh_node.volume()) for _ in range(_VOLUMES)]:
            done.result()
    assert "was aborted" not in fresh_node.logs(), fresh_node.logs()
