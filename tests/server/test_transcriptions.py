"""Uploads through OpenAI's interface, with the official client and by hand."""

import json
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from recordings import RATE
from signals import make_signal, make_talk, to_wav

from asr.endpoint import EndpointConfig
from asr.formats import to_srt, to_vtt
from asr.recognizer import OperatingPoint

openai = pytest.importorskip("openai", reason="the official client is not installed")


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Twenty seconds with pauses, which have several segments."""
    return to_wav(make_talk(20.0, RATE), RATE)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(server, recording):
    return server.recognizer.transcribe(recording)


def post(server, recording: bytes | None, **fields: object) -> httpx.Response:
    files = {} if recording is None else {"file": ("speech.wav", recording)}
    data = {key.replace("__", "[]"): value for key, value in fields.items()}
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions", files=files or {"x": ("", b"")}, data=data
    )


def refusal(response: httpx.Response, status: int) -> dict:
    """The error of a response that has OpenAI's shape: one sentence."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    return error


class TestFormats:
    def test_json(self, client, recording, expected) -> None:
        answer = client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", recording), language="en", temperature=0
        )
        assert answer.text == expected.text
        assert answer.usage.seconds == 20

    @pytest.mark.parametrize(
        ("name", "render"),
        [("text", lambda h: f"{h.text}\n"), ("srt", to_srt), ("vtt", to_vtt)],
    )
    def test_plain_formats(self, client, recording, expected, name, render) -> None:
        answer = client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", recording), response_format=name
        )
        assert answer == render(expected)

    def test_verbose_json_has_segments_and_words(self, client, recording, expected) -> None:
        answer = client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", recording),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert answer.text == expected.text
        assert answer.duration == pytest.approx(20)
        assert [(w.word, w.start, w.end) for w in answer.words] == [
            (w.text, round(w.start, 3), round(w.end, 3)) for w in expected.words
        ]
        assert len(answer.segments) > 1
        assert " ".join(segment.text for segment in answer.segments) == expected.text
        assert answer.segments[0].start == round(expected.words[0].start, 3)

    def test_granularities_choose_what_is_sent(self, server, recording) -> None:
        both = post(server, recording, response_format="verbose_json").json()
        assert "segments" in both
        assert "words" not in both
        words = post(
            server, recording, response_format="verbose_json", timestamp_granularities__="word"
        ).json()
        assert "segments" not in words
        assert words["words"][0].keys() == {"word", "start", "end", "confidence"}

    def test_logprobs_are_the_confidence_of_words(self, client, recording, expected) -> None:
        answer = client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.wav", recording), include=["logprobs"]
        )
        assert "".join(token.token for token in answer.logprobs) == expected.text
        assert [np.exp(token.logprob) for token in answer.logprobs] == pytest.approx(
            [word.confidence for word in expected.words], abs=1e-3
        )
        spelled = bytes(map(int, answer.logprobs[0].bytes))  # the client reads them as floats
        assert spelled.decode() == answer.logprobs[0].token

    def test_streamed_deltas_join_to_the_text(self, client, recording, expected) -> None:
        events = list(
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", recording), stream=True
            )
        )
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert len(deltas) > 1
        assert "".join(deltas) == expected.text
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == expected.text

    def test_latency_is_an_operating_point(self, server, recording) -> None:
        point = OperatingPoint(640, EndpointConfig())
        text = server.recognizer.transcribe(recording, point).text
        assert post(server, recording, latency_ms="640").json()["text"] == text

    def test_the_models_are_listed(self, client, server) -> None:
        [model] = client.models.list().data
        assert client.models.retrieve(model.id).id == model.id
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another")

    def test_uploads_together_have_the_texts_of_each_alone(self, server) -> None:
        from concurrent.futures import ThreadPoolExecutor

        recordings = []
        for number in range(12):
            samples = make_signal(1.0 + number / 4, RATE) * np.float32(0.5 + number / 20)
            recordings.append(to_wav(samples, RATE))
        texts = [server.recognizer.transcribe(each).text for each in recordings]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda each: post(server, each), recordings))
        assert [answer.json()["text"] for answer in answers] == texts


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("language", "de"),
            ("temperature", "0.5"),
            ("temperature", "warm"),
            ("response_format", "diarized_json"),
            ("stream", "perhaps"),
            ("timestamp_granularities__", "letter"),
            ("timestamp_granularities__", "word"),  # without verbose_json
            ("include__", "tokens"),
            ("chunking_strategy", "server_vad"),
            ("decoder", "magic"),
            ("latency_ms", "nan"),
            ("latency_ms", "1"),
        ],
    )
    def test_what_cannot_act_is_refused_by_name(self, server, recording, field, value) -> None:
        error = refusal(post(server, recording, **{field: value}), 400)
        assert error["param"] == field.removesuffix("__")
        assert error["type"] == "invalid_request_error"

    def test_unknown_parameters(self, server, recording) -> None:
        assert refusal(post(server, recording, speed="2"), 400)["code"] == "unknown_parameter"

    def test_a_parameter_given_twice(self, server, recording) -> None:
        refusal(post(server, recording, language=["en", "en"]), 400)

    def test_another_model(self, server, recording) -> None:
        error = refusal(post(server, recording, model="large"), 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found")

    def test_streaming_subtitles(self, server, recording) -> None:
        refusal(post(server, recording, stream="true", response_format="srt"), 400)

    def test_hotwords_of_unknown_letters(self, server, recording) -> None:
        assert (
            refusal(post(server, recording, prompt="жук", decoder="beam"), 400)["param"] == "prompt"
        )

    def test_hotwords_with_the_greedy_decoder(self, server, recording) -> None:
        refusal(post(server, recording, prompt="cat", decoder="greedy"), 400)

    def test_no_file(self, server) -> None:
        assert refusal(post(server, None), 400)["param"] == "file"

    def test_no_form(self, server, recording) -> None:
        address = f"{server.url}/v1/audio/transcriptions"
        refusal(httpx.post(address, content=recording), 400)
        refusal(httpx.post(address, json={"model": "whisper-1"}), 400)

    @pytest.mark.parametrize("stream", ["false", "true"])
    def test_recordings_that_are_none(self, server, stream) -> None:
        for content in (b"", b"text, and no recording", b"RIFF" + bytes(100)):
            error = refusal(post(server, content, stream=stream), 400)
            assert "Spooled" not in error["message"]

    def test_addresses_and_methods_that_do_not_exist(self, server) -> None:
        assert refusal(httpx.get(f"{server.url}/v2"), 404)["code"] == "not_found"
        refusal(httpx.get(f"{server.url}/v1/audio/transcriptions"), 405)
        refusal(httpx.get(f"{server.url}/page/../app.py"), 404)

    def test_a_file_name_is_no_path(self, server, recording, tmp_path: Path) -> None:
        secret = tmp_path / "secret.wav"
        secret.write_bytes(recording)
        files = {"file": (str(secret), b"")}
        response = httpx.post(f"{server.url}/v1/audio/transcriptions", files=files)
        assert "0 bytes" in refusal(response, 400)["message"]
        response = post(server, None, file=str(secret))
        assert refusal(response, 400)["param"] == "file"


def test_a_request_keeps_a_plain_id_of_its_client(server) -> None:
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False)):
        answer = httpx.get(f"{server.url}/healthz", headers={"X-Request-Id": given})
        assert (answer.headers["x-request-id"] == given) is kept


def test_figures_for_prometheus(server, recording) -> None:
    post(server, recording)
    text = httpx.get(f"{server.url}/metrics").text
    name = 'asr_requests_total{path="/v1/audio/transcriptions",status="200"}'
    assert float(text.split(name)[1].split()[0]) >= 1
    for figure in ("asr_streams", "asr_queue", "asr_stream_latency_seconds_bucket", "asr_errors"):
        assert figure in text
    assert json.loads(httpx.get(f"{server.url}/readyz").text) == {"status": "ok"}
