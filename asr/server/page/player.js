// Playback: the button, the slider that is the waveform, and the clock.

import { formatTime } from "./formats.js";
import { Waveform, readPeaks } from "./waveform.js";

const LEAP = 5; // seconds that an arrow key moves

/** Plays a recording; `onTime` is called with the time in seconds whenever it changes. */
export class Player {
  #audio = document.getElementById("audio");
  #button = document.getElementById("play");
  #slider = document.getElementById("slider");
  #clock = document.getElementById("clock");
  #panel = document.getElementById("player");
  #waveform = new Waveform(document.getElementById("waveform"));
  #seconds = 0;
  #onTime;

  constructor(onTime) {
    this.#onTime = onTime;
    this.#button.addEventListener("click", () => this.#toggle());
    this.#slider.addEventListener("pointerdown", (event) => this.#grab(event));
    this.#slider.addEventListener("keydown", (event) => this.#press(event));
    for (const name of ["play", "pause", "ended"]) {
      this.#audio.addEventListener(name, () => this.#showState());
    }
    this.#audio.addEventListener("seeked", () => this.#showTime());
  }

  /**
   * Show the level of the microphone; `peaks` grows, by `rate` peaks per second. Returns a function to
   * call when it has grown.
   */
  listen(peaks, rate) {
    this.clear();
    this.#panel.hidden = false;
    this.#panel.classList.add("recording");
    this.#slider.tabIndex = -1;
    this.#slider.setAttribute("aria-disabled", "true");
    return () => this.#waveform.showLive(peaks, rate);
  }

  /** Load a recording. Returns whether the browser can play it. */
  async load(blob, seconds, words) {
    this.clear();
    this.#seconds = seconds;
    this.#audio.src = URL.createObjectURL(blob);
    const isPlayable = await new Promise((resolve) => {
      this.#audio.onloadedmetadata = () => resolve(true);
      this.#audio.onerror = () => resolve(false);
    });
    if (!isPlayable) {
      this.clear();
      return false;
    }
    this.#panel.hidden = false;
    this.#slider.setAttribute("aria-valuemax", seconds.toFixed(1));
    this.#waveform.show(null, seconds, words);
    this.#showTime();
    const source = this.#audio.src;
    readPeaks(blob, seconds).then((peaks) => {
      if (peaks && this.#audio.src === source) {
        this.#waveform.show(peaks, seconds, words);
        this.#showTime();
      }
    });
    return true;
  }

  /** Stop, and forget the recording. */
  clear() {
    this.#panel.hidden = true;
    this.#panel.classList.remove("recording");
    this.#slider.tabIndex = 0;
    this.#slider.removeAttribute("aria-disabled");
    this.#seconds = 0;
    this.#audio.pause();
    if (this.#audio.src) URL.revokeObjectURL(this.#audio.src);
    this.#audio.removeAttribute("src");
    this.#audio.load();
  }

  /** Play from a time on. */
  async playFrom(seconds) {
    this.#seek(seconds);
    await this.#play();
  }

  #seek(seconds) {
    if (!this.#seconds) return;
    this.#audio.currentTime = Math.max(0, Math.min(seconds, this.#seconds));
    this.#showTime();
  }

  async #play() {
    if (!this.#seconds) return;
    await this.#audio.play().catch(() => {}); // paused again before it began
  }

  #toggle() {
    if (this.#audio.paused) this.#play();
    else this.#audio.pause();
  }

  #grab(event) {
    if (!this.#seconds) return;
    const follow = ({ clientX }) => {
      const { left, width } = this.#slider.getBoundingClientRect();
      this.#seek(((clientX - left) / width) * this.#seconds);
    };
    this.#slider.setPointerCapture(event.pointerId);
    this.#slider.addEventListener("pointermove", follow);
    this.#slider.addEventListener(
      "lostpointercapture", () => this.#slider.removeEventListener("pointermove", follow), { once: true });
    follow(event);
  }

  #press(event) {
    const now = this.#audio.currentTime;
    const targets = {
      ArrowRight: now + LEAP, ArrowUp: now + LEAP, ArrowLeft: now - LEAP, ArrowDown: now - LEAP,
      Home: 0, End: this.#seconds,
    };
    if (event.key in targets) this.#seek(targets[event.key]);
    else if (event.key === " " || event.key === "Enter") this.#toggle();
    else return;
    event.preventDefault();
  }

  #showState() {
    const isPlaying = !this.#audio.paused && !this.#audio.ended;
    this.#button.classList.toggle("playing", isPlaying);
    this.#button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    if (isPlaying) this.#follow();
  }

  #follow() {
    this.#showTime();
    if (!this.#audio.paused) requestAnimationFrame(() => this.#follow());
  }

  #showTime() {
    const now = this.#audio.currentTime;
    if (!this.#seconds) return;
    this.#waveform.move(Math.min(1, now / this.#seconds));
    this.#clock.textContent = `${formatTime(now)} of ${formatTime(this.#seconds)}`;
    this.#slider.setAttribute("aria-valuenow", now.toFixed(1));
    this.#slider.setAttribute("aria-valuetext", this.#clock.textContent);
    this.#onTime(now);
  }
}
