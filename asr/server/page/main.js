// The page: a recording or the microphone goes in, a transcript comes out.

import { showModel } from "./about.js";
import { describe } from "./confidence.js";
import { FORMATS } from "./formats.js";
import { askForKey } from "./key.js";
import { Player } from "./player.js";
import { MicrophoneError, Recorder } from "./recorder.js";
import { ServerError, getModel, openStream, transcribe } from "./server.js";
import * as settings from "./settings.js";
import { Transcript } from "./transcript.js";

const find = (id) => document.getElementById(id);
const transcript = new Transcript(find("transcript"), (word) => player.playFrom(word.start));
const player = new Player((seconds) => transcript.mark(seconds));
const SAVED_FOR = 60_000; // milliseconds after which a saved file's address is given up
const MOST_ABOVE = 0.6; // the part of the window above the captions, beyond which it is scrolled

let model = null; // the description of the server's model, once it is known
let stop = null; // ends what is running now
let shown = null; // the transcript: name, seconds, words

/** Learn what the server's model can do, and do some work; asks for a key and shows what goes wrong. */
async function attempt(work) {
  find("problem").hidden = true;
  for (;;) {
    try {
      await meet();
      await work();
      return true;
    } catch (error) {
      if (error.status === 401 && (await askForKey())) continue;
      const isExpected = error instanceof ServerError || error instanceof MicrophoneError;
      if (error.name !== "AbortError") {
        showProblem(isExpected ? error.message : `The page failed (${error.message}); reload it.`);
      }
      return false;
    }
  }
}

async function meet() {
  if (model) return;
  model = await getModel();
  showModel(model);
  settings.offer(model);
  if (!stop) setBusy(false);
}

function showProblem(sentence) {
  find("problem").hidden = false;
  find("problem").textContent = sentence;
}

function say(sentence) {
  find("status").textContent = sentence;
}

/** Prepare the page for a new transcript; `onStop` is called if the reader ends it early. */
function begin(name, onStop) {
  stop = onStop;
  shown = null;
  player.clear();
  find("name").textContent = name;
  find("work").hidden = false;
  find("result").hidden = true;
  find("captions").hidden = false;
  clearCaptions();
  setBusy(true);
  const { top } = find("work").getBoundingClientRect();
  if (top > MOST_ABOVE * innerHeight) find("work").scrollIntoView();
}

/** Let the reader begin something else. */
function end() {
  const hadFocus = document.activeElement === find("stop");
  stop = null;
  find("progress").hidden = true;
  find("captions").hidden = shown !== null;
  setBusy(false);
  if (hadFocus) (shown ? find("transcript").querySelector(".word") ?? find("speak") : find("speak")).focus();
}

function setBusy(isBusy) {
  find("choose").disabled = isBusy;
  find("speak").disabled = isBusy;
  find("speak").hidden = model?.streaming === false;
  find("stop").hidden = !isBusy;
  if (isBusy) find("stop").focus();
}

function clearCaptions() {
  find("settled").replaceChildren();
  showCurrent("", "");
}

/** Add a segment to the captions, which a screen reader reads. */
function settle(text) {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  follow(() => find("settled").append(paragraph));
}

function showCurrent(stable, tail) {
  follow(() => {
    find("stable").textContent = stable;
    find("tail").textContent = tail;
  });
}

/** Change the captions, and keep their last line in sight unless the reader has scrolled away. */
function follow(change) {
  const { top, bottom } = find("current").getBoundingClientRect();
  change();
  if (top >= 0 && bottom <= innerHeight) find("current").scrollIntoView({ block: "nearest" });
}

/** Show a transcript, with the recording to play. */
async function show({ name, blob, seconds, segments, notes }) {
  const words = segments.flat();
  shown = { name, seconds, words };
  transcript.show(segments);
  const isPlayable = await player.load(blob, seconds, words);
  find("hint").hidden = !isPlayable || !words.length;
  find("legend").hidden = !words.length;
  if (!isPlayable) notes = [...notes, "This browser cannot play the recording."];
  find("notes").replaceChildren(...notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  find("result").hidden = false;
  say(describe(words));
}

/** Transcribe a file. */
async function transcribeFile(file) {
  if (stop) return;
  const controller = new AbortController();
  begin(file.name, () => controller.abort());
  const isDone = await attempt(async () => {
    clearCaptions();
    say("Sending the recording.");
    find("progress").hidden = false;
    const result = await transcribe(file, settings.read(), {
      signal: controller.signal,
      onText: settle,
      onSent: (part) => {
        find("progress").value = part;
        if (part < 1) return;
        find("progress").hidden = true;
        say("Transcribing.");
      },
    });
    const segments = divide(result.words.map(({ word, ...rest }) => ({ text: word, ...rest })), result.segments);
    const { duration: seconds, warnings = [], gaps = [] } = result;
    const notes = [...warnings, ...gaps.map(([start, stop]) =>
      `From ${start.toFixed(1)} to ${stop.toFixed(1)} s the recording is damaged.`)];
    await show({ name: file.name, blob: file, seconds, segments, notes: notes.map(capitalize) });
  });
  if (!isDone) say("There is no complete transcript.");
  end();
}

/** Divide words among the segments that they are in. */
function divide(words, segments) {
  const parts = segments.map(() => []);
  let index = 0;
  for (const word of words) {
    while (index + 1 < segments.length && word.start >= segments[index + 1].start) index += 1;
    parts[index].push(word);
  }
  return parts;
}

function capitalize(sentence) {
  return sentence.charAt(0).toUpperCase() + sentence.slice(1);
}

/** Show captions of the microphone until the reader stops. */
async function speak() {
  if (stop) return;
  const recorder = new Recorder();
  const segments = [];
  let isOver = false;
  begin("Your recording", () => { isOver = true; });
  say("Waiting for the microphone.");
  const isDone = await attempt(async () => {
    await recorder.open();
    const live = await openStream(recorder.rate, settings.read(), (message) => take(message, segments));
    if (!isOver) {
      const over = new Promise((resolve) => { stop = resolve; });
      startListening(recorder, live, stop);
      await Promise.race([over, live.finished]);
      say("Finishing.");
      await recorder.stop();
    }
    live.end();
    await live.finished;
  });
  await recorder.stop();
  await recorder.close();
  const wasHeard = segments.flat().length > 0;
  if (isDone || wasHeard) await showSpeech(recorder, segments);
  else {
    player.clear();
    say("There is no complete transcript.");
  }
  end();
}

function startListening(recorder, live, onLost) {
  const peaks = [];
  let size = 0; // samples of a piece
  let draw = null;
  recorder.start((buffer) => {
    live.send(buffer);
    const samples = new Int16Array(buffer);
    size ||= samples.length;
    draw ??= player.listen(peaks, recorder.rate / size);
    peaks.push(samples.reduce((loudest, value) => Math.max(loudest, Math.abs(value)), 0) / 32768);
    draw();
  }, onLost);
  say("Listening: speak now.");
}

/** Use a message of the live stream. */
function take(message, segments) {
  if (message.segment || message.final) {
    segments.push(message.words);
    if (message.text) settle(message.text);
    showCurrent("", "");
  } else {
    showCurrent(message.stable, message.tail);
  }
}

async function showSpeech(recorder, segments) {
  const { seconds } = recorder;
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  await show({ name: `recording-${stamp}.wav`, blob: recorder.toWav(), seconds, segments, notes: [] });
}

/** Save the transcript as a file of a format. */
function save(format) {
  const stem = shown.name.replace(/\.[^.]*$/, "") || "transcript";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([FORMATS[format](shown)], { type: "text/plain" }));
  link.download = `${stem}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), SAVED_FOR);
}

function acceptDrops() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (isOver) => document.body.classList.toggle("dragging", isOver);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    takeFiles(event.dataTransfer.files);
  });
}

async function takeFiles(files) {
  if (!files.length) return;
  await transcribeFile(files[0]);
  if (files.length > 1) showProblem("One recording at a time: only the first one was taken.");
}

function listen() {
  find("choose").addEventListener("click", () => find("file").click());
  find("file").addEventListener("change", async () => {
    const files = [...find("file").files];
    find("file").value = ""; // the same file may be chosen again
    await takeFiles(files);
  });
  find("speak").addEventListener("click", speak);
  find("stop").addEventListener("click", () => stop?.());
  addEventListener("keydown", (event) => { if (event.key === "Escape") stop?.(); });
  for (const button of document.querySelectorAll("[data-format]")) {
    button.addEventListener("click", () => save(button.dataset.format));
  }
  find("copy").hidden = !navigator.clipboard;
  find("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(FORMATS.txt(shown).trim());
    say("The text is copied.");
  });
  acceptDrops();
}

listen();
await attempt(() => {});
