// The waveform on a canvas.

import { grade } from "./confidence.js";

const STEP = 4; // pixels from bar to bar
const BAR = 2.5; // width of a bar in pixels
const MARKS = 8; // height in pixels of the stripe that marks doubtful words
const LIVE_SECONDS = 8; // how much of a live signal is shown
const PEAKS = 2000; // of a whole recording
const RATE = 8000; // hertz at which a file is decoded, which saves memory
const LARGEST = 100e6; // bytes of a file that is decoded
const LONGEST = 3600; // its seconds

/** The peaks of a file, or null if the browser cannot decode it or it is too long. */
export async function readPeaks(file, seconds) {
  if (file.size > LARGEST || seconds > LONGEST) return null;
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const audio = await context.decodeAudioData(await file.arrayBuffer());
    return findPeaks(audio.getChannelData(0), Math.ceil(audio.length / PEAKS));
  } catch {
    return null;
  }
}

/** The largest magnitude of every `size` samples, which are from -1 to 1. */
export function findPeaks(samples, size) {
  const peaks = new Float32Array(Math.ceil(samples.length / size));
  samples.forEach((value, index) => {
    const peak = Math.floor(index / size);
    peaks[peak] = Math.max(peaks[peak], Math.abs(value));
  });
  return peaks;
}

/** Draws a recording, how far it has been played, and which of its words are doubtful. */
export class Waveform {
  #canvas;
  #render = () => {};
  #layers = []; // the whole recording as if it had been played, and as if it had not
  #position = 0; // the part that has been played, from 0 to 1

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#render()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#render());
  }

  /** Show a whole recording; without peaks, a plain line. */
  show(peaks, seconds, words) {
    this.#position = 0;
    this.#render = () => {
      this.#layers = ["--accent", "--wave"].map((color) => this.#drawLayer(color, peaks, seconds, words));
      this.#compose();
    };
    this.#render();
  }

  /** Show the last seconds of a signal that goes on, of which there are `rate` peaks per second. */
  showLive(peaks, rate) {
    this.#render = () => this.#drawLive(peaks, rate);
    this.#render();
  }

  /** Move to a position from 0 to 1. */
  move(position) {
    this.#position = position;
    this.#compose();
  }

  #compose() {
    const { context, width, height, color } = this.#prepare(this.#canvas);
    if (!width) return; // hidden
    const x = this.#position * width;
    const [played, rest] = this.#layers;
    const scale = played.width / width;
    context.drawImage(played, 0, 0, x * scale, played.height, 0, 0, x, height);
    context.drawImage(rest, x * scale, 0, rest.width - x * scale, rest.height, x, 0, width - x, height);
    context.fillStyle = color("--ink");
    context.fillRect(Math.min(width - 1.5, x), 0, 1.5, height - MARKS);
  }

  #drawLayer(name, peaks, seconds, words) {
    const layer = document.createElement("canvas");
    const { context, width, height, color } = this.#prepare(layer);
    context.fillStyle = color(name);
    const perPixel = (peaks?.length ?? 0) / width;
    const loudest = peaks?.reduce((a, b) => Math.max(a, b), 0.01);
    for (let x = 0; x < width; x += STEP) {
      const some = peaks?.subarray(Math.floor(x * perPixel), Math.ceil((x + STEP) * perPixel)) ?? [];
      drawBar(context, x, height - MARKS, Math.max(0, ...some) / loudest || 0);
    }
    const colors = { unsure: color("--unsure"), wrong: color("--wrong") };
    for (const word of words) {
      if (grade(word) === "sure") continue;
      context.fillStyle = colors[grade(word)];
      const x = (word.start / seconds) * width;
      context.fillRect(x, height - 3, Math.max(1, ((word.end - word.start) / seconds) * width - 1), 3);
    }
    return layer;
  }

  #drawLive(peaks, rate) {
    const { context, width, height, color } = this.#prepare(this.#canvas);
    context.fillStyle = color("--accent");
    const perBar = Math.max(1, Math.round((LIVE_SECONDS * rate * STEP) / width));
    const bars = Math.floor(width / STEP);
    const newest = Math.floor(peaks.length / perBar);
    for (let bar = Math.max(0, newest - bars); bar < newest; bar += 1) {
      const peak = Math.max(...peaks.slice(bar * perBar, (bar + 1) * perBar));
      drawBar(context, width - (newest - bar) * STEP, height, Math.sqrt(peak)); // shows faint sound too
    }
  }

  /** Empty a canvas, make it as large as the one that is seen, and tell how to draw on it. */
  #prepare(canvas) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    const context = canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(this.#canvas);
    return { context, width, height, color: (name) => style.getPropertyValue(name) };
  }
}

function drawBar(context, x, height, peak) {
  const size = Math.max(2, peak * (height - 2));
  context.fillRect(x, (height - size) / 2, BAR, size);
}
