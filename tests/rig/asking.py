"""A client that makes *once* requests, one after the other, in a thread, while a test does something to the node."""

import threading

from host_sdk.client import NapuClient
from host_sdk.results import Inference
from tests.rig.packages import held_out

IMAGES = 40


class Asking:
    """Requests of the held-out digits, over and over, until :meth:`end`.

    Attributes:
        answers: What came, in order.
    """

    def __init__(self, client: NapuClient) -> None:
        self.answers: list[Inference] = []
        self._errors: list[BaseException] = []
        self._client, self._end = client, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                for _, jpeg in held_out()[:IMAGES]:
                    self.answers.append(self._client.infer("digits", jpeg))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self._errors.append(error)

    def has(self, count: int) -> bool:
        """Return whether more answers than this have come."""
        return len(self.answers) > count

    def end(self) -> None:
        """Stop asking; every answer is the right one, in its turn."""
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not self._errors
        labels = [label for label, _ in held_out()[:IMAGES]]
        assert [answer.label for answer in self.answers] == [
            labels[index % IMAGES] for index in range(len(self.answers))
        ]
