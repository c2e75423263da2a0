from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator

import httpx
import pytest

from phasewatch.client import connect
from phasewatch.errors import RecorderClosed
from phasewatch.outbox import POINTS_AT_ONCE, Gate, Message, Outbox, Point, json_body
from phasewatch.transport import THREAD_NAME, Route, Sender, batches
from tests.fake_api import FakeServer

SERIES = "/runs/r/series"


def message(name: str, **more: object) -> Message:
    body = json_body({"is": name})
    return Message(name, "POST", f"/{name}", body, len(body()), **more)  # type: ignore[arg-type]


class Sending:
    """A sender on a fake server; its pauses are written down instead of waited for."""

    def __init__(self, server: FakeServer, segment: int | None = None) -> None:
        self.pauses: list[float] = []
        self.outbox = Outbox(10**6)
        http = connect("http://pw.test", "secret", server.transport)
        self.sender = Sender([Route(self.outbox, SERIES, segment)], http, pause=self._pause)

    def _pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return False

    def send(self, *items: Message | Point) -> None:
        for item in items:
            self.outbox.put(item)
        self.sender.start()
        assert self.outbox.wait_empty(10)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def sending(server: FakeServer) -> Iterator[Sending]:
    made = Sending(server)
    yield made
    made.outbox.close()
    made.sender.stop()


class TestOutbox:
    def test_gives_messages_one_by_one_and_metrics_together_in_order(self) -> None:
        outbox = Outbox(10**6)
        first, last = message("a"), message("b")
        points = [Point(step, {"loss": 1.0}) for step in range(3)]
        for item in (first, *points, last):
            assert outbox.put(item)
        seen = []
        while len(outbox):
            head = outbox.head()
            seen.append(list(head))
            outbox.drop(len(head))
        assert seen == [[first], points, [last]]

    def test_no_more_metrics_at_once_than_the_limit(self) -> None:
        outbox = Outbox(10**9)
        for step in range(POINTS_AT_ONCE + 7):
            outbox.put(Point(step, {}))
        assert [point.step for point in outbox.head() if isinstance(point, Point)] == list(range(POINTS_AT_ONCE))
        outbox.drop(POINTS_AT_ONCE)
        assert len(outbox) == 7

    def test_bound_counts_bytes_and_what_left_makes_room(self) -> None:
        one = message("one")
        outbox = Outbox(2 * one.size_bytes)
        assert [outbox.put(one) for _ in range(3)] == [True, True, False]
        assert outbox.put(one, beyond_bound=True)
        outbox.drop(3)
        assert outbox.put(one)

    def test_waiting_for_it_to_empty_says_whether_it_did(self) -> None:
        outbox = Outbox(1000)
        assert outbox.wait_empty(0)
        outbox.put(Point(0, {}))
        assert not outbox.wait_empty(0.01)

    def test_closing_forgets_counts_and_refuses(self) -> None:
        outbox = Outbox(1000)
        outbox.put(Point(0, {}))
        assert outbox.close() == 1
        assert outbox.head() == []
        with pytest.raises(RecorderClosed):
            outbox.put(Point(1, {}))


class TestBatches:
    def test_metrics_of_a_step_logged_apart_go_together(self) -> None:
        assert batches([Point(1, {"loss": 2.0}), Point(1, {"lr": 0.1}), Point(2, {"loss": 1.5})]) == [
            [(1, "loss", 2.0), (1, "lr", 0.1), (2, "loss", 1.5)]
        ]

    def test_a_second_value_of_the_same_metric_is_not_lost_and_the_server_may_judge(self) -> None:
        assert batches([Point(1, {"loss": 2.0}), Point(1, {"loss": 3.0}), Point(1, {"loss": 3.0})]) == [
            [(1, "loss", 2.0)],
            [(1, "loss", 3.0)],
        ]

    def test_nan_neither_hides_nor_is_hidden_by_a_number(self) -> None:
        assert batches([Point(1, {"loss": math.nan}), Point(1, {"loss": 3.0}), Point(2, {"a": math.inf})]) == [
            [(1, "loss", None)],
            [(1, "loss", 3.0), (2, "a", "Infinity")],
        ]
        assert batches([Point(1, {"loss": 3.0}), Point(1, {"loss": math.nan})]) == [
            [(1, "loss", 3.0)],
            [(1, "loss", None)],
        ]

    def test_values_on_a_device_are_asked_for(self) -> None:
        assert batches([Point(1, {"loss": lambda: -math.inf})]) == [[(1, "loss", "-Infinity")]]


class TestSender:
    def test_keeps_the_order_and_carries_the_token(self, server: FakeServer, sending: Sending) -> None:
        sending.send(message("a"), Point(1, {"loss": 2.0}), Point(2, {"loss": 1.0}), message("b"), message("c"))
        assert server.paths == ["POST /a", f"POST {SERIES}", "POST /b", "POST /c"]
        assert server.series == [(1, "loss", 2.0), (2, "loss", 1.0)]
        assert server.authorizations == {"Bearer secret"}
        assert sending.sender.refused == 0

    def test_a_server_that_is_away_gets_everything_once_when_it_is_back(
        self, server: FakeServer, sending: Sending, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused: httpx.TransportError = httpx.ConnectError("connection refused")
        server.faults = [refused, refused, httpx.ReadTimeout("slow"), httpx.Response(503, headers={"Retry-After": "7"})]
        with caplog.at_level(logging.INFO):
            sending.send(message("a"), Point(1, {"loss": 2.0}), message("b"))
        assert server.paths == ["POST /a", f"POST {SERIES}", "POST /b"]
        first, second, third, asked = sending.pauses
        assert 0.1 <= first <= 0.2 <= second <= 0.4 <= third <= 0.8
        assert asked == 7
        said = [record.getMessage() for record in caplog.records if record.name == "phasewatch"]
        assert len(said) == 2  # not once a try
        assert "pw.test is away (connection refused)" in said[0]
        assert "is back" in said[1]

    def test_back_off_ends_growing(self, server: FakeServer, sending: Sending) -> None:
        server.faults = [httpx.Response(503) for _ in range(40)]
        sending.send(message("a"))
        assert len(sending.pauses) == 40
        assert 2.5 <= max(sending.pauses) <= 5

    @pytest.mark.parametrize(
        ("asked", "waited"), [("Wed, 21 Oct 2015 07:28:00 GMT", 0.2), ("0", 0.2), ("99999", 300.0)], ids=str
    )
    def test_retry_after_is_obeyed_within_reason(
        self, server: FakeServer, sending: Sending, asked: str, waited: float
    ) -> None:
        server.faults = [httpx.Response(429, headers={"Retry-After": asked})]
        sending.send(message("a"))
        assert sending.pauses == [waited]

    def test_a_lost_answer_repeats_the_same_request(self, server: FakeServer, sending: Sending) -> None:
        server.lost_answers = 1
        sending.send(Point(1, {"loss": 2.0}))
        assert server.requests[0] == server.requests[1]
        assert server.series == [(1, "loss", 2.0)]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422])
    def test_a_refusal_is_counted_said_once_and_never_repeated(
        self, server: FakeServer, sending: Sending, caplog: pytest.LogCaptureFixture, status: int
    ) -> None:
        server.veto = lambda method, path, content: status if path == "/a" else None
        sending.send(message("a"), message("a"), message("b"))
        assert server.paths == ["POST /a", "POST /a", "POST /b"]
        assert sending.sender.refused == 2
        assert not sending.pauses
        [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "a not recorded" in said
        assert "refused /a" in said

    def test_an_error_of_the_server_does_not_hold_up_what_follows_for_ever(
        self, server: FakeServer, sending: Sending
    ) -> None:
        server.veto = lambda method, path, content: 500 if path == "/a" else None
        sending.send(message("a"), message("b"))
        assert server.paths == ["POST /a"] * 5 + ["POST /b"]
        assert sending.sender.refused == 1

    def test_one_wrong_metric_costs_only_itself(self, server: FakeServer, sending: Sending) -> None:
        def veto(method: str, path: str, content: dict[str, list[dict[str, dict[str, float]]]]) -> int | None:
            return 409 if any("bad" in point["values"] for point in content["points"]) else None

        server.veto = veto
        points = [Point(step, {"loss": float(step), **({"bad": 0.0} if step == 37 else {})}) for step in range(100)]
        sending.send(*points)
        assert sorted(server.series) == [(step, "loss", float(step)) for step in range(100)]
        assert sending.sender.refused == 1

    def test_nothing_that_rests_on_a_refused_message_is_sent(self, server: FakeServer, sending: Sending) -> None:
        server.veto = lambda method, path, content: 409 if path == "/probes" else None
        sending.send(
            message("run", needs=(), opens=Gate.RUN),
            message("probes", opens=Gate.PROBES),
            message("losses", needs=(Gate.RUN, Gate.PROBES)),
            message("end"),
        )
        assert server.paths == ["POST /run", "POST /probes", "POST /end"]
        assert sending.sender.refused == 2

    def test_metrics_of_a_refused_run_are_not_sent(self, server: FakeServer, sending: Sending) -> None:
        server.veto = lambda method, path, content: 409
        sending.send(message("run", needs=(), opens=Gate.RUN), Point(1, {"loss": 2.0}))
        assert server.paths == ["POST /run"]
        assert sending.sender.refused == 2

    def test_everything_goes_to_the_segment_that_was_opened(self, server: FakeServer, sending: Sending) -> None:
        sending.send(
            message("runs/r/segments", begins_segment=True), message("losses", in_segment=True), Point(1, {"loss": 2.0})
        )
        assert server.paths[1:] == ["POST /losses?segment=3", f"POST {SERIES}?segment=3"]

    def test_a_refusal_that_may_be_is_no_failure(self, server: FakeServer, sending: Sending) -> None:
        server.veto = lambda method, path, content: 409
        sending.send(message("resume", may_fail=True))
        assert sending.sender.refused == 0

    def test_a_body_that_cannot_be_made_costs_only_itself(self, server: FakeServer, sending: Sending) -> None:
        def body() -> bytes:
            raise RuntimeError("device lost")

        sending.send(Message("losses", "PUT", "/losses", body, 1), message("b"))
        assert server.paths == ["POST /b"]
        assert [str(error) for error in sending.sender.errors] == ["RuntimeError: device lost"]

    def test_requests_do_not_appear_in_the_log_of_the_training(
        self, server: FakeServer, sending: Sending, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            sending.send(message("a"))
            logging.getLogger("httpx").warning("another's own request")
        assert [record.getMessage() for record in caplog.records if record.name == "httpx"] == ["another's own request"]

    def test_stops_in_the_middle_of_a_pause(self, server: FakeServer) -> None:
        outbox = Outbox(1000)
        sender = Sender([Route(outbox, SERIES)], connect("http://pw.test", None, server.transport))
        server.faults = [httpx.Response(503, headers={"Retry-After": "300"})]
        outbox.put(message("a"))
        sender.start()
        assert not outbox.wait_empty(0.1)
        sender.stop(timeout_s=10)
        assert not sender.is_alive
        assert outbox.close() == 1

    def test_what_is_put_waits_for_no_request(self) -> None:
        under_way, go_on = threading.Event(), threading.Event()
        sending = Sending(_stuck(under_way, go_on))
        sending.outbox.put(message("a"))
        sending.sender.start()
        assert under_way.wait(10)
        for step in range(1000):  # by the thread that could set `go_on`, and has not
            sending.outbox.put(Point(step, {"loss": 1.0}))
        assert len(sending.outbox) == 1001
        go_on.set()
        assert sending.outbox.wait_empty(10)
        sending.outbox.close()
        sending.sender.stop()

    def test_thread_dies_with_the_process(self) -> None:
        sending = Sending(FakeServer())
        sending.sender.start()
        [thread] = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
        assert thread.daemon
        sending.outbox.close()
        sending.sender.stop()
        assert not thread.is_alive()


def _stuck(under_way: threading.Event, go_on: threading.Event) -> FakeServer:
    """A server whose answers wait for `go_on`."""
    server = FakeServer()

    def veto(method: str, path: str, content: object) -> int | None:
        under_way.set()
        assert go_on.wait(10)
        return None

    server.veto = veto
    return server
