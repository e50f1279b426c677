"""A firmware that hangs, on a real node: it is reset, and inference never notices."""

import os
import signal
from pathlib import Path

from host_sdk.cli.demo_images import held_out
from tests.rig.nodes import node_process


def test_a_stopped_firmware_is_reset_while_inference_goes_on(tmp_path: Path) -> None:
    (item,) = held_out(1)
    with node_process(tmp_path) as node, node.client() as client:
        before = client.infer("digits", item.jpeg)
        assert before.trailer is not None
        stopped = node.firmware_pid()
        os.kill(stopped, signal.SIGSTOP)
        epoch, answers = before.trailer.firmware_epoch, 0
        while epoch == before.trailer.firmware_epoch:
            answer = client.infer("digits", item.jpeg)
            assert answer.label == item.label
            assert answer.trailer is not None
            epoch, answers = answer.trailer.firmware_epoch, answers + 1
        assert epoch == before.trailer.firmware_epoch + 1
        assert answers > 1
        stats = client.stats()
        assert (stats["hardware"]["firmware_resets"], stats["hardware"]["resets_watchdog"]) == (1, 1)
        assert stats["hardware"]["resets_killed"] == stats["hardware"]["resets_exited"] == 0
        texts = [line["text"] for line in client.control("logs")["lines"]]
        assert any("board: firmware was reset by the watchdog" in text for text in texts)
        assert any(text.endswith(f"epoch {epoch}, WATCHDOG") for text in texts)
        assert node.firmware_pid() != stopped
