"""`gossamer bench serve` against real servers, and its figures by hand."""

import http.server
import json
import threading
from typing import ClassVar

import pytest

from gossamer.cli.main import main
from gossamer.serving.loadtest.outcomes import Sample, latency, summarize

from tiny import make_lora

LENGTHS = ["--max-prompt", "30", "--max-output", "6", "--min-output", "2", "--vocabulary", "259"]
SMALL = [*LENGTHS, "--rate", "20", "--duration", "1"]


def bench(*arguments):
    return main(["bench", "serve", *map(str, arguments)])


def test_a_server_of_its_own_json_table_and_picture(tmp_path, tiny_model, capsys):
    make_lora(tmp_path / "adapters" / "a", tiny_model, rank=4)
    output = tmp_path / "load"
    arguments = ["--model", tiny_model, "--adapter-folder", tmp_path / "adapters"]
    assert bench(*arguments, "--output", output, *SMALL) == 0
    result = json.loads((output / "result.json").read_text())
    summary, samples = result["summary"], result["samples"]
    assert summary["requests"] == summary["finished"] == len(samples) == 20
    assert {sample["model"] for sample in samples} == {tiny_model.name, "a"}
    for sample in samples:
        assert sample["due"] <= sample["first"] <= sample["end"]
        assert 8 <= sample["prompt_tokens"] <= 30
        assert 2 <= sample["output_tokens"] <= 6
    assert summary["attainment"] == 1
    assert "| throughput |" in (output / "table.md").read_text()
    assert (output / "load.png").read_bytes().startswith(b"\x89PNG")
    assert "20 to 2 models" in capsys.readouterr().out
    assert bench(*arguments, "--output", output, *SMALL) == 2
    assert "in use" in capsys.readouterr().err


class Peer(http.server.BaseHTTPRequestHandler):
    """Refuses every other request; never sends usage; breaks its promise to one model."""

    asked: ClassVar[list] = []

    def do_GET(self):
        self._send(200, {"data": [{"id": "x"}, {"id": "y"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.headers["Authorization"], body))
        if len(self.asked) % 2:
            self._send(429, {"error": {"message": "too much"}})
            return
        chunks = [{"choices": [{"text": "t"}]}] * 3 + [{"choices": []}]
        lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._send(200, lines)

    def _send(self, status, content):
        payload = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def peer():
    Peer.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_without_usage_or_token_prompts(peer, tmp_path, capsys):
    options = ["--prompt", "text", "--no-ignore-eos", "--names", "y", "--api-key", "secret"]
    assert bench("--url", peer, *options, *SMALL, "--output", tmp_path / "o") == 0
    captured = capsys.readouterr()
    summary = json.loads((tmp_path / "o" / "result.json").read_text())["summary"]
    assert (summary["finished"], summary["refused"], summary["failed"]) == (10, 10, 0)
    assert summary["attainment"] == 0.5
    assert "status 429: too much" in captured.err
    for key, body in Peer.asked:
        assert key == "Bearer secret"
        assert body["model"] == "y"
        assert isinstance(body["prompt"], str)
        assert "ignore_eos" not in body
    assert len({body["prompt"] for _, body in Peer.asked}) == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--names", "z"], "does not offer z"),
        (["--adapters", "3"], "the server offers 2"),
        (["--min-output", "9", "--max-output", "3"], "min_output=9"),
        (["--rate", "0.1", "--duration", "1"], "makes no request"),
        (["--device", "cuda"], "--device is for --model"),
        (["--quantization", "int8"], "--quantization is for --model"),
    ],
)
def test_wrong_wishes(peer, capsys, options, words):
    assert bench("--url", peer, *options) == 2
    assert words in capsys.readouterr().err


def test_no_server_there(capsys):
    assert bench("--url", "http://127.0.0.1:9", *SMALL) == 1
    assert "does not list its models" in capsys.readouterr().err


def test_the_started_server_gets_its_options(tiny_model, capsys):
    options = ["--device", "cpu", "--dtype", "bfloat16", "--backend", "cpu"]
    assert bench("--model", tiny_model, *options, *SMALL) == 1
    assert "computes in float32, not bfloat16" in capsys.readouterr().err


def test_a_server_that_does_not_start(tmp_path, capsys):
    assert bench("--model", tmp_path / "none", *SMALL) == 1
    assert "the server did not start" in capsys.readouterr().err


def sample(due, first, end, tokens, outcome="finished"):
    return Sample(model="m", due=due, first=first, end=end, output_tokens=tokens, outcome=outcome)


def test_figures_by_hand():
    samples = [
        sample(0.0, 1.0, 5.0, 5),
        sample(2.0, 5.0, 6.0, 2),
        sample(3.0, None, 3.0, 0, "refused"),
        sample(3.0, 9.5, 10.0, 1),
    ]
    summary = summarize(samples, slo=6.0)
    assert summary.seconds == 10.0
    assert summary.requests_per_second == pytest.approx(0.3)
    assert summary.output_tokens_per_second == pytest.approx(0.8)
    assert summary.first_token.mean == pytest.approx((1 + 3 + 6.5) / 3)
    assert summary.first_token.p50 == 3.0
    assert summary.between_tokens.mean == pytest.approx(1.0)
    assert summary.per_token.p99 == pytest.approx(7.0)
    assert summary.attainment == 0.5
    assert summary.satisfaction == pytest.approx((1 - 1 / 36 + 1 - 1 / 4) / 4)


def test_percentiles_are_of_the_nearest_rank():
    values = [float(i) for i in range(1, 201)]
    found = latency(values)
    assert (found.p50, found.p90, found.p99) == (100.0, 180.0, 198.0)
    assert latency([7.0]).p99 == 7.0
    assert latency([]) is None
