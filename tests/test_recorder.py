from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import phasewatch
from phasewatch.errors import Conflict, InvalidInput, NotFound, RecorderClosed, TooLarge
from phasewatch.measures import score_heads, token_losses
from phasewatch.probes import ProbeSet
from phasewatch.recorder import DEFAULT_SCHEDULE, Recorder, State
from phasewatch.schedules import Schedule
from tests.fake_api import FakeServer

VOCAB = 60
TEXT = np.random.default_rng(0).integers(0, VOCAB, (3, 13))


class TinyModel(nn.Module):
    """One layer of fused attention with dropout, so that mode and random state matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCAB, 8)
        self.dropout = nn.Dropout(0.5)
        self.unembedding = nn.Linear(8, VOCAB)
        self.n_calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.n_calls += 1
        stream = self.dropout(self.embedding(tokens))
        heads = stream.unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        logits: Tensor = self.unembedding(stream + mixed.transpose(1, 2).flatten(-2))
        return logits


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture(params=["memory", "disk"])
def make(server: FakeServer, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Recorder]:
    usual = {"transport": server.transport, "spool": None if request.param == "memory" else tmp_path / "spool"}
    return lambda **more: Recorder("http://pw.test", run="tiny", **{**usual, **more})


def paths(server: FakeServer, recorder: Recorder) -> list[str]:
    return [path.replace(recorder.run_id, "ID").removesuffix("?segment=0") for path in server.paths]


class TestLife:
    def test_a_run_is_created_recorded_and_completed(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make(config={"layers": 2}, tags=["a"]) as recorder:
            recorder.log(0, {"loss": 2.0})
        assert paths(server, recorder) == ["POST /runs", "POST /runs/ID/series", "PATCH /runs/ID"]
        assert server.content("POST /runs") == {
            "id": recorder.run_id, "name": "tiny", "training": None, "config": {"layers": 2}, "tags": ["a"],
        }  # fmt: skip
        assert server.content(f"PATCH /runs/{recorder.run_id}") == {"status": "completed"}
        assert recorder.failed == recorder.dropped == recorder.pending == 0

    def test_nothing_is_sent_before_the_first_use(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        recorder = make()
        assert recorder.state is State.UNOPENED
        assert recorder.flush()
        recorder.close()
        assert server.paths == []

    def test_opens_itself_at_its_first_use(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        recorder = make()
        recorder.log(0, {"loss": 2.0})
        assert recorder.state is State.OPEN
        assert recorder.flush()
        assert server.series == [(0, "loss", 2.0)]
        recorder.close()
        assert recorder.state is State.CLOSED

    def test_closed_is_closed(self, make: Callable[..., Recorder]) -> None:
        recorder = make()
        recorder.probe(TEXT)
        recorder.close()
        recorder.close()
        calls: list[Callable[[], object]] = [
            lambda: recorder.log(0, {}),
            lambda: recorder.due(0),
            lambda: recorder.probe(TEXT, "other"),
            lambda: recorder.record(0, TinyModel()),
            lambda: recorder.record_losses(0, np.zeros((3, 12))),
            recorder.flush,
            recorder.__enter__,
        ]
        for call in calls:
            with pytest.raises(RecorderClosed):
                call()

    @pytest.mark.parametrize(
        ("error", "ending"),
        [
            (ZeroDivisionError("by zero"), {"status": "failed", "failure": "ZeroDivisionError: by zero"}),
            (KeyboardInterrupt(), {"status": "failed", "failure": "KeyboardInterrupt: "}),
            (SystemExit(0), {"status": "completed"}),
            (SystemExit(2), {"status": "failed", "failure": "SystemExit: 2"}),
        ],
        ids=repr,
    )
    def test_an_error_that_leaves_the_loop_fails_the_run_and_goes_on(
        self, server: FakeServer, make: Callable[..., Recorder], error: BaseException, ending: dict[str, str]
    ) -> None:
        recorder = make()
        with pytest.raises(type(error)), recorder:
            raise error
        assert server.content(f"PATCH /runs/{recorder.run_id}") == ending

    def test_a_resumed_run_gets_a_segment_that_everything_goes_to(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        before = make()
        with make(run_id=before.run_id, resume_from=40) as recorder:
            recorder.log(41, {"loss": 2.0})
        run = f"/runs/{before.run_id}"
        assert server.paths == [
            f"POST {run}/resume", f"POST {run}/segments", f"POST {run}/series?segment=3", f"PATCH {run}",
        ]  # fmt: skip
        assert server.content("/segments") == {"from_step": 40}

    def test_a_run_begun_again_under_its_id_writes_to_its_newest_segment(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        first = make()
        with make(run_id=first.run_id) as recorder:
            recorder.log(1, {"loss": 2.0})
        assert server.paths[:2] == ["POST /runs", f"POST /runs/{first.run_id}/series"]

    def test_ids_differ_and_are_known_at_once(self, make: Callable[..., Recorder]) -> None:
        assert make().run_id != make().run_id

    @pytest.mark.parametrize(
        "wrong",
        [{"spool": __file__}, {"resume_from": 3}, {"run_id": "seven"}, {"url": "localhost:8000"}, {"url": "ftp://a"}],
        ids=str,
    )
    def test_what_cannot_be_is_said_before_the_loop(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            Recorder(**wrong)

    def test_server_and_token_come_from_the_environment(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PHASEWATCH_URL", "http://elsewhere:9/")
        (tmp_path / "token").write_text("from-file\n")
        monkeypatch.setenv("PHASEWATCH_TOKEN_FILE", str(tmp_path / "token"))
        with Recorder(transport=server.transport, spool=None) as recorder:
            assert recorder.url == "http://elsewhere:9"
        monkeypatch.setenv("PHASEWATCH_TOKEN", "from-variable")
        with Recorder(transport=server.transport, spool=None):
            pass
        assert server.authorizations == {"Bearer from-file", "Bearer from-variable"}

    def test_settings_of_any_kind_are_kept_as_json(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        config = {"path": Path("a/b"), 3: (np.float32(0.5), float("nan")), "nested": {"dtype": torch.float16}}
        with make(config=config):
            pass
        assert server.content("POST /runs")["config"] == {
            "path": "a/b", "3": [0.5, "nan"], "nested": {"dtype": "torch.float16"},
        }  # fmt: skip

    def test_the_library_offers_it_without_loading_torch(self) -> None:
        script = (
            "import sys, phasewatch; assert 'httpx' not in sys.modules; phasewatch.Recorder;"
            "sys.exit(any(name in sys.modules for name in ('torch', 'sqlalchemy', 'fastapi')))"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
        assert phasewatch.Recorder is Recorder
        with pytest.raises(AttributeError, match="no attribute 'Recordre'"):
            phasewatch.Recordre  # noqa: B018  # the access is the test


class TestMetrics:
    def test_numbers_of_every_kind(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        loss = torch.tensor(2.5, requires_grad=True)
        with make() as recorder:
            recorder.log(torch.tensor(3), {"a": loss * 2, "b": np.float16(0.5), "c": 7, "d": [1.5], "e": math.nan})  # type: ignore[arg-type]  # as loops do
        assert server.series == [(3, "a", 5.0), (3, "b", 0.5), (3, "c", 7.0), (3, "d", 1.5), (3, "e", None)]

    def test_a_tensor_is_taken_as_it_is_now(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        total = torch.zeros(())
        with make() as recorder:
            for step in range(3):
                total += 1.0
                recorder.log(step, {"total": total})
        assert [value for _, _, value in server.series] == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize(
        "wrong", [None, "0.5", [1, 2], torch.zeros(2), 1j, object()], ids=lambda value: type(value).__name__
    )
    def test_a_metric_that_is_no_number_costs_only_itself(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture, wrong: object
    ) -> None:
        with make() as recorder:
            for step in range(3):
                recorder.log(step, {"loss": 1.0, "odd": wrong})
        assert [name for _, name, _ in server.series] == ["loss"] * 3
        assert recorder.failed == 3
        [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "metric 'odd'" in said

    @pytest.mark.parametrize("step", [-1, 0.5, None], ids=str)
    def test_a_step_that_is_none_never_reaches_the_loop_as_an_error(
        self, server: FakeServer, make: Callable[..., Recorder], step: Any
    ) -> None:
        with make() as recorder:
            recorder.log(step, {"loss": 1.0})
            recorder.record_losses(step, np.zeros((3, 12)))
            assert not recorder.due(step)
        assert recorder.failed == 3
        assert server.series == []


class TestSchedule:
    def test_default_is_log_spaced_then_regular(self, make: Callable[..., Recorder]) -> None:
        recorder = make()
        due = [step for step in range(30_001) if recorder.due(step)]
        assert due[:5] == [0, 1, 2, 3, 4]
        assert set(range(0, 30_001, 1000)) <= set(due)
        assert len(due) == 120

    def test_may_be_given(self, make: Callable[..., Recorder]) -> None:
        recorder = make(schedule=Schedule(log=0, every=3, windows=()))
        assert [recorder.due(step) for step in range(4)] == [True, False, False, True]
        assert not recorder.due(1)
        assert DEFAULT_SCHEDULE.due(1)


class TestRecord:
    def test_sends_probe_set_head_scores_and_losses_of_every_slice(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        model = TinyModel()
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record(7, model)
            recorder.record(8, model)
        assert paths(server, recorder) == [
            "POST /runs",
            "POST /probe-sets",
            "PUT /runs/ID/probe-set",
            *(
                path
                for step in (7, 8)
                for path in (
                    "POST /runs/ID/measurements",
                    *(f"PUT /runs/ID/losses/{name}/{step}" for name in ("text", "repeats", "random")),
                )
            ),
            "PATCH /runs/ID",
        ]
        probes = ProbeSet.from_tokens(TEXT, vocab_size=VOCAB)
        assert server.content("/probe-set") == {"probe_set": probes.sha256}
        sent = server.content("POST /probe-sets")
        assert sent["vocab_size"] == VOCAB
        assert sent["slices"]["repeats"] == {
            "tokens": probes.slices["repeats"].tokens.tolist(), "layout": probes.slices["repeats"].layout.to_dict(),
        }  # fmt: skip
        losses = server.content("PUT /runs/" + recorder.run_id + "/losses/repeats/7?segment=0")
        assert losses.dtype == np.float32
        np.testing.assert_array_equal(losses, token_losses(model, probes.slices["repeats"].tokens, batch_size=16))

    def test_head_scores_are_those_of_the_library(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        model = TinyModel()
        with make() as recorder:
            recorder.probe(TEXT, vocab_size=VOCAB)
            recorder.record(7, model)
        sent = server.content("/measurements?segment=0")
        expected = score_heads(model, ProbeSet.from_tokens(TEXT, vocab_size=VOCAB))
        assert sent["step"] == 7
        assert set(sent["measurements"]) == set(expected)
        for name, scores in expected.items():
            measured = sent["measurements"][name]
            np.testing.assert_array_equal(measured["values"], scores.values)
            np.testing.assert_array_equal(measured["interval"], scores.interval)
            assert measured["chance"] == scores.chance
            assert measured["version"] == 1

    def test_a_diverged_model_is_data(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        model = TinyModel()
        with torch.no_grad():
            model.embedding.weight.fill_(math.nan)
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record(7, model)
        assert np.isnan(server.content("/losses/text/7?segment=0")).all()
        assert server.content("/measurements?segment=0")["measurements"]["previous_token"]["values"] == [[None, None]]
        assert recorder.failed == 0

    def test_the_training_does_not_notice(self, make: Callable[..., Recorder]) -> None:
        model = TinyModel().train()
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        state = np.random.get_state()[1].copy()  # the caller's, not ours
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record(7, model)
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        torch.testing.assert_close(torch.rand(3), expected)
        np.testing.assert_array_equal(np.random.get_state()[1], state)

    def test_slices_of_the_callers_are_recorded_too(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make() as recorder:
            recorder.probe(TEXT[:, :5], slice="short")
            recorder.probe(torch.tensor(TEXT), bos=1, pieces=[f"<{token}>" for token in range(VOCAB)])
            recorder.record(0, TinyModel())
        sent = server.content("POST /probe-sets")
        assert list(sent["slices"]) == ["short", "text", "repeats", "random"]
        assert sent["slices"]["repeats"]["layout"]["bos"] == 1
        assert sent["pieces"][3] == "<3>"
        assert server.content("/losses/short/0?segment=0").shape == (3, 4)

    def test_a_new_slice_after_the_first_recorded_step_raises(self, make: Callable[..., Recorder]) -> None:
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record_losses(0, np.zeros((3, 12)))
            with pytest.raises(InvalidInput, match="'late' comes after the first recorded step"):
                recorder.probe(TEXT, slice="late")

    def test_a_model_without_attention_gets_losses_only_and_one_warning(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        model = nn.Sequential(nn.Embedding(VOCAB, 4), nn.Linear(4, VOCAB))
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record(0, model)
            recorder.record(1, model)
        assert not any("measurements" in path for path in server.paths)
        assert sum("/losses/text/" in path for path in server.paths) == 2
        [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "without head scores" in said
        assert recorder.failed == 0

    def test_a_model_that_breaks_is_not_the_loops_affair(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(tokens: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

        with make() as recorder:
            recorder.record(0, broken)
            recorder.probe(TEXT, vocab_size=VOCAB)
            recorder.record(1, broken)
            recorder.record(2, broken)
            recorder.log(2, {"loss": 1.0})
        assert recorder.failed == 3
        assert server.series == [(2, "loss", 1.0)]
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert ["call recorder.probe" in record.getMessage() for record in said] == [True, False]
        assert said[1].exc_info is not None

    def test_weights_go_as_safetensors(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        from safetensors.torch import load

        bodies: list[bytes] = []
        inner = server.transport

        def keep(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/weights"):
                bodies.append(request.read())
                return httpx.Response(201, json={})
            return inner.handle_request(request)

        model = TinyModel()
        model.unembedding.weight = nn.Parameter(torch.randn(VOCAB, 8))
        model.embedding.weight = model.unembedding.weight  # tied
        with make(transport=httpx.MockTransport(keep)) as recorder:
            recorder.probe(TEXT)
            recorder.record(4, model, weights=True)
        assert server.content("/checkpoints?segment=0") == {"step": 4, "tokens_seen": None, "model": None}
        loaded = load(bodies[0])
        assert set(loaded) == set(model.state_dict())
        torch.testing.assert_close(loaded["embedding.weight"], model.unembedding.weight.detach())

    @pytest.mark.parametrize("losses", [np.arange(36.0).reshape(3, 12), torch.arange(36), list(range(36))], ids=type)
    def test_losses_of_the_loops_own(self, server: FakeServer, make: Callable[..., Recorder], losses: Any) -> None:
        with make() as recorder:
            recorder.probe(TEXT)
            losses = losses.copy() if isinstance(losses, np.ndarray) else losses
            recorder.record_losses(5, losses)
            if isinstance(losses, np.ndarray):
                losses[:] = 0  # the loop may use its array again
        np.testing.assert_array_equal(
            server.content("/losses/text/5?segment=0"), np.arange(36, dtype=np.float32).reshape(3, 12)
        )

    @pytest.mark.parametrize(
        ("losses", "slice", "message"),
        [
            (np.zeros((3, 13)), "text", "must be (3, 12) or flat, not (3, 13)"),
            (np.zeros((3, 12), complex), "text", "complex128"),
            (np.zeros((3, 12)), "other", "'other' has no tokens (known: text)"),
        ],
    )
    def test_losses_that_do_not_fit_are_named(
        self, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture, losses: Any, slice: str, message: str
    ) -> None:
        with make() as recorder:
            recorder.probe(TEXT)
            recorder.record_losses(5, losses, slice)
        assert recorder.failed == 1
        assert message in caplog.text


class TestFaults:
    def test_a_full_queue_is_said_and_counted(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        go_on = threading.Event()
        server.veto = lambda method, path, content: None if go_on.wait(10) else 500
        recorder = make(max_bytes=5_000)
        for step in range(100):
            recorder.log(step, {"loss": 1.0})
        n_kept = recorder.pending - 1  # and the run itself
        assert recorder.dropped == 100 - n_kept > 0
        go_on.set()
        recorder.close()
        assert server.series == [(step, "loss", 1.0) for step in range(n_kept)]
        assert [record.getMessage().rpartition(", ")[2] for record in caplog.records] == [
            f"{count} messages so far" for count in (1, 10)
        ]

    def test_what_could_not_be_sent_in_time_is_said_and_counted(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        server.faults = [httpx.ConnectError("refused")] * 1000  # type: ignore[list-item]  # the same error each time
        with make(flush_timeout=0.05, spool=None) as recorder:
            recorder.log(0, {"loss": 1.0})
            assert not recorder.flush(0.01)
        assert recorder.dropped == 3
        assert f"3 messages of run {recorder.run_id} are lost" in caplog.text

    def test_strict_raises_what_goes_wrong(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make(strict=True) as recorder:
            with pytest.raises(InvalidInput, match="metric 'loss'"):
                recorder.log(0, {"loss": "high"})
            with pytest.raises(InvalidInput, match=r"call recorder\.probe"):
                recorder.record(0, TinyModel())
            server.veto = lambda method, path, content: 409 if "series" in path else None
            recorder.log(1, {"loss": 1.0})
            assert recorder.flush()
            with pytest.raises(Conflict, match="refused /runs"):
                recorder.log(2, {"loss": 1.0})

    def test_strict_raises_at_the_end_what_was_refused_last(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        server.veto = lambda method, path, content: 404 if method == "PATCH" else None
        with pytest.raises(NotFound), make(strict=True):
            pass

    def test_strict_raises_when_the_queue_is_full(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make(strict=True, max_bytes=100) as recorder, pytest.raises(TooLarge, match="is full"):
            recorder.log(0, {"loss": 1.0})

    def test_a_run_that_the_server_refuses_is_not_written_to(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        server.veto = lambda method, path, content: 409 if path == "/runs" else None
        with make() as recorder:
            recorder.probe(TEXT, vocab_size=VOCAB)
            recorder.log(0, {"loss": 1.0})
            recorder.record(0, TinyModel())
        assert server.paths == ["POST /runs"]
        assert recorder.failed == 9
        assert "run not recorded: refused /runs" in caplog.text
