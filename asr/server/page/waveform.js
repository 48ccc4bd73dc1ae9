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
  #draw = () => {};
  #position = 0; // the part that has been played, from 0 to 1

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Show a whole recording; without peaks, a plain line. */
  show(peaks, seconds, words) {
    this.#position = 0;
    this.#draw = () => this.#drawAll(peaks, seconds, words);
    this.#draw();
  }

  /** Show the last seconds of a signal that goes on, of which there are `rate` peaks per second. */
  showLive(peaks, rate) {
    this.#draw = () => this.#drawLive(peaks, rate);
    this.#draw();
  }

  /** Move to a position from 0 to 1. */
  move(position) {
    this.#position = position;
    this.#draw();
  }

  #drawAll(peaks, seconds, words) {
    const { context, width, height, color } = this.#prepare();
    const loudest = peaks?.reduce((a, b) => Math.max(a, b), 0.01);
    const room = height - MARKS;
    for (let x = 0; x < width; x += STEP) {
      context.fillStyle = (x + BAR) / width <= this.#position ? color("--accent") : color("--wave");
      const first = Math.floor((x / width) * (peaks?.length ?? 0));
      const last = Math.ceil(((x + STEP) / width) * (peaks?.length ?? 0));
      const peak = peaks ? Math.max(0, ...peaks.subarray(first, last)) / loudest : 0;
      drawBar(context, x, room, peak);
    }
    for (const word of words) {
      if (grade(word) === "sure") continue;
      context.fillStyle = color(`--${grade(word)}`);
      const x = (word.start / seconds) * width;
      context.fillRect(x, height - 3, Math.max(1, ((word.end - word.start) / seconds) * width - 1), 3);
    }
    context.fillStyle = color("--ink");
    context.fillRect(Math.min(width - 1.5, this.#position * width), 0, 1.5, room);
  }

  #drawLive(peaks, rate) {
    const { context, width, height, color } = this.#prepare();
    context.fillStyle = color("--accent");
    const perBar = Math.max(1, Math.round((LIVE_SECONDS * rate * STEP) / width));
    const bars = Math.floor(width / STEP);
    const newest = Math.floor(peaks.length / perBar);
    for (let bar = Math.max(0, newest - bars); bar < newest; bar += 1) {
      const peak = Math.max(...peaks.slice(bar * perBar, (bar + 1) * perBar));
      drawBar(context, width - (newest - bar) * STEP, height, Math.sqrt(peak)); // shows faint sound too
    }
  }

  #prepare() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.#canvas);
    return { context, width, height, color: (name) => style.getPropertyValue(name) };
  }
}

function drawBar(context, x, height, peak) {
  const size = Math.max(2, peak * (height - 2));
  context.fillRect(x, (height - size) / 2, BAR, size);
}
