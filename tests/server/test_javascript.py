"""OpenAI's official client for JavaScript, and the guide's client for browsers, against the server.

They run where Node.js and the npm package `openai` can be found; NODE_PATH names its folder.
"""

import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from project import ROOT

NODE = shutil.which("node")
SAMPLE = ROOT / "docs" / "sample.flac"

FILES = """
const OpenAI = require("openai");
const fs = require("fs");
(async () => {
  const client = new OpenAI({ baseURL: process.argv[1] + "/v1", apiKey: "none" });
  const send = (more) => client.audio.transcriptions.create(
    { model: "whisper-1", file: fs.createReadStream(process.argv[2]), ...more });
  const found = { models: (await client.models.list()).data.map((model) => model.id) };
  found.json = (await send({})).text;
  found.srt = await send({ response_format: "srt" });
  const verbose = await send({
    response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
  found.words = verbose.words.map((word) => word.word);
  found.deltas = [];
  for await (const event of await send({ stream: true }))
    if (event.type === "transcript.text.delta") found.deltas.push(event.delta);
  try {
    await send({ language: "de" });
  } catch (error) {
    found.refused = [error.status, error.param];
  }
  console.log(JSON.stringify(found));
})();
"""

REALTIME = """
const address = process.argv[1] + "/v1/realtime?intent=transcription";
const samples = require("fs").readFileSync(process.argv[2]);
const { WebSocket: Socket } = globalThis.WebSocket ? globalThis : { WebSocket: require("ws") };
const socket = new Socket(address, ["realtime", "openai-insecure-api-key.none"]);
const say = (event) => socket.send(JSON.stringify(event));
let text = "";
socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "session.created") {
    const input = { format: { type: "audio/pcm", rate: 16000 }, turn_detection: null };
    say({ type: "session.update", session: { type: "transcription", audio: { input } } });
  } else if (event.type === "session.updated") {
    for (let at = 0; at < samples.length; at += 3201)
      say({ type: "input_audio_buffer.append",
            audio: samples.subarray(at, at + 3201).toString("base64") });
    say({ type: "input_audio_buffer.commit" });
  } else if (event.type === "conversation.item.input_audio_transcription.delta") {
    text += event.delta;
  } else if (event.type === "conversation.item.input_audio_transcription.completed") {
    console.log(JSON.stringify({ text, transcript: event.transcript }));
    socket.close();
  } else if (event.type === "error") {
    console.error(event.error.message);
    process.exit(1);
  }
};
"""


def run(program: str, *arguments: str) -> dict:
    """Run a program in Node.js; skips where a package is missing."""
    if NODE is None:
        pytest.skip("Node.js is not installed")
    done = subprocess.run(
        [NODE, "-e", program, *arguments], capture_output=True, text=True, timeout=120
    )
    if "Cannot find module" in done.stderr:
        pytest.skip(f"npm's package is not in NODE_PATH ({os.environ.get('NODE_PATH')})")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_official_client(bundled: SimpleNamespace) -> None:
    found = run(FILES, bundled.url, str(SAMPLE))
    expected = bundled.recognizer.transcribe(SAMPLE)
    assert found["models"] == ["asr-english"]
    assert found["json"] == "".join(found["deltas"]) == expected.text
    assert found["srt"].startswith("1\n00:00:00,200 --> ")
    assert found["words"] == expected.text.split()
    assert found["refused"] == [400, "language"]


def test_realtime_from_javascript(bundled: SimpleNamespace, tmp_path) -> None:
    samples, rate = soundfile.read(SAMPLE, dtype="int16")
    assert rate == 16_000
    (tmp_path / "samples").write_bytes(samples.astype("<i2").tobytes())
    found = run(REALTIME, bundled.ws_url, str(tmp_path / "samples"))
    stream = bundled.recognizer.stream(640)
    stream.accept(np.asarray(samples), rate)
    assert found["text"] == found["transcript"] == stream.finish().text
