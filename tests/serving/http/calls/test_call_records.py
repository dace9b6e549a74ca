"""What is told of a call when it is over: a line in a file, and the spans of a trace."""

import asyncio
import json
import threading

import httpx
import pytest
from commands.keys import key_maker
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gossamer import extras
from gossamer.errors import MissingExtraError, SettingError
from gossamer.serving.http.app import create_app
from gossamer.serving.http.calls import request_log, traces
from gossamer.serving.http.calls.record import CallRecord
from gossamer.serving.http.calls.request_log import RequestLog
from gossamer.serving.http.calls.traces import Traces
from gossamer.serving.http.settings import HttpSettings

CHAT = {"model": "pirate", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def call(make_engine):
    """`call(settings, (path, body), ...)`: the answers of an app that lives as long as that."""

    def call(settings, *bodies, headers=None):
        async def run():
            app = create_app(make_engine(), settings)
            transport = httpx.ASGITransport(app=app)
            url = "http://localhost"
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client,
            ):
                return [await client.post(path, json=body) for path, body in bodies]

        return asyncio.run(run())

    return call


@pytest.fixture
def spans(call, monkeypatch):
    """`spans((path, body), ...)`: the spans of these calls, by name."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(traces, "OTLPSpanExporter", lambda endpoint: exporter)

    def spans(*bodies, **options):
        call(HttpSettings(traces="http://localhost:4318/v1/traces"), *bodies, **options)
        return {span.name: span for span in exporter.get_finished_spans()}

    return spans


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_call(call, tmp_path):
    path = tmp_path / "calls.jsonl"
    answers = call(
        HttpSettings(request_log=path),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True, "n": 2}),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}),
        ("/v1/nowhere", {}),
    )
    good, streamed, refused, lost = lines(path)
    usage = answers[0].json()["usage"]
    assert good["request_id"] == answers[0].headers["X-Request-Id"]
    assert good["route"] == "/v1/chat/completions"
    assert good["status"] == 200
    assert (good["tenant"], good["model"], good["stream"]) == ("default", "pirate", False)
    assert good["prompt_tokens"] == usage["prompt_tokens"] > 0
    assert good["completion_tokens"] == usage["completion_tokens"] > 0
    assert good["finish_reasons"] == [answers[0].json()["choices"][0]["finish_reason"]]
    seconds = good["seconds"]
    assert 0 <= seconds["submitted"] <= seconds["first_token"] <= seconds["ended"]
    assert (streamed["stream"], streamed["choices"]) == (True, 2)
    assert len(streamed["finish_reasons"]) == 2
    assert (refused["status"], refused["completion_tokens"]) == (400, 0)
    assert refused["seconds"].keys() == {"ended"}
    assert (lost["status"], lost["route"], lost["model"]) == (404, None, None)
    # Nothing of what was said is there.
    assert "hi" not in {str(value) for line in lines(path) for value in line.values()}


def test_the_tenant_is_that_of_the_key(call, tmp_path, capsys):
    keys = tmp_path / "keys.yaml"
    key = key_maker(keys, capsys)("alice", "--adapter", "*")
    path = tmp_path / "calls.jsonl"
    settings = HttpSettings(keys=keys, request_log=path)
    call(settings, ("/v1/chat/completions", CHAT), headers={"Authorization": f"Bearer {key}"})
    call(settings, ("/v1/chat/completions", CHAT))
    known, unknown = lines(path)
    assert (known["tenant"], known["status"]) == ("alice", 200)
    assert (unknown["tenant"], unknown["status"]) == (None, 401)


def test_a_file_that_was_moved_away_is_begun_again(call, tmp_path):
    path = tmp_path / "calls.jsonl"
    log = RequestLog(path)
    log.close()
    call(HttpSettings(request_log=path), ("/v1/chat/completions", CHAT))
    path.rename(tmp_path / "calls.1")
    call(HttpSettings(request_log=path), ("/v1/chat/completions", CHAT))
    assert [len(lines(file)) for file in (tmp_path / "calls.1", path)] == [1, 1]


def test_calls_are_noted_again_when_the_folder_of_the_file_is_back(tmp_path, monkeypatch, caplog):
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    tried, real = threading.Semaphore(0), request_log._handler

    def counting(path):
        handler = real(path)
        handle = handler.handle

        def counted(record):
            try:
                return handle(record)
            finally:
                tried.release()

        handler.handle = counted
        return handler

    monkeypatch.setattr(request_log, "_handler", counting)
    log = RequestLog(folder / "calls.jsonl")

    def note(name):
        log.tell(CallRecord(name, "GET"))
        assert tried.acquire(timeout=5), "the log has ended"

    note("first")
    folder.rename(away)
    note("second")
    note("third")
    away.rename(folder)
    note("fourth")
    log.close()
    told = lines(folder / "calls.jsonl")
    assert [line["request_id"] for line in told] == ["first", "fourth"]
    assert told[-1]["calls_not_noted_before"] == 2
    assert caplog.text.count("calls are not noted") == 1


def test_a_file_that_cannot_be_written_is_refused_at_once(make_engine, tmp_path):
    with pytest.raises(SettingError, match=r"request_log '.*' cannot be written: No such file"):
        create_app(make_engine(), HttpSettings(request_log=tmp_path / "no" / "calls.jsonl"))


def test_calls_do_not_wait_for_a_disk_that_does_not_answer(call, tmp_path, monkeypatch):
    path, answers_again = tmp_path / "calls.jsonl", threading.Event()
    monkeypatch.setattr(request_log, "MOST_WAITING", 2)
    real = request_log._handler

    def hanging(path):
        handler = real(path)
        emit = handler.emit
        handler.emit = lambda record: (answers_again.wait(), emit(record))
        return handler

    monkeypatch.setattr(request_log, "_handler", hanging)
    log = RequestLog(path)
    monkeypatch.setattr("gossamer.serving.http.calls.sinks.RequestLog", lambda _: log)
    close = log.close
    log.close = lambda: (answers_again.set(), close())
    answers = call(HttpSettings(request_log=path), *[("/v1/chat/completions", CHAT)] * 6)
    assert [answer.status_code for answer in answers] == [200] * 6
    told = lines(path)
    # One is being written and two wait; the others are counted by the next line there is.
    assert 2 <= len(told) <= 3


def test_a_trace_of_a_call_goes_on_from_the_callers(spans):
    found = spans(
        ("/v1/chat/completions", CHAT), headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    )
    call = found["POST /v1/chat/completions"]
    assert call.kind == SpanKind.SERVER
    assert f"{call.context.trace_id:x}" == TRACE
    assert f"{call.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert call.attributes["gen_ai.operation.name"] == "chat"
    assert call.attributes["gen_ai.request.model"] == "pirate"
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert call.attributes["http.response.status_code"] == 200
    assert call.resource.attributes["service.name"] == "gossamer"
    parts = [found[n] for n in ("read and encode", "wait for the first token", "generate")]
    assert all(part.parent.span_id == call.context.span_id for part in parts)
    moments = [call.start_time, *(part.end_time for part in parts)]
    assert moments == sorted(moments)
    assert parts[-1].end_time == call.end_time


def test_what_a_caller_sends_as_a_trace_may_be_anything(spans):
    found = spans(("/v1/chat/completions", CHAT), headers={"traceparent": "no trace " * 20})
    assert found["POST /v1/chat/completions"].parent is None


def test_a_refusal_has_no_parts_and_is_no_error_of_the_server(spans):
    found = spans(("/v1/chat/completions", {**CHAT, "model": "nobody"}), ("/v1/nowhere", {}))
    assert found.keys() == {"POST /v1/chat/completions", "POST unmatched"}
    refused = found["POST /v1/chat/completions"]
    assert refused.attributes["http.response.status_code"] == 404
    assert refused.status.status_code == StatusCode.UNSET


def test_the_environment_names_the_service(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
    made = Traces("http://localhost:4318/v1/traces", exporter=InMemorySpanExporter())
    assert made._provider.resource.attributes["service.name"] == "answers"
    made.close()


def test_an_address_and_the_packages_are_asked_for(make_engine, monkeypatch):
    with pytest.raises(SettingError, match="'localhost:4318' is no address; give the whole of it"):
        HttpSettings.parse({"traces": "localhost:4318"}, where="serve")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[otel\]"):
        create_app(make_engine(), HttpSettings(traces="http://localhost:4318/v1/traces"))
