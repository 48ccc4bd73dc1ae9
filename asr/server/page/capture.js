// Runs in the browser's audio thread: turns the sound of the microphone into 16-bit samples.

const PIECE = 2048; // samples that are sent at a time

class Capture extends AudioWorkletProcessor {
  #samples = new Int16Array(PIECE);
  #count = 0;
  #stopped = false;

  constructor() {
    super();
    this.port.onmessage = () => { // the only message means stop
      this.#send();
      this.port.postMessage(null);
      this.#stopped = true;
    };
  }

  process([channels]) {
    const frames = channels.length ? channels[0].length : 0;
    for (let i = 0; i < frames; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = Math.round((sum / channels.length) * 32768);
      this.#samples[this.#count] = Math.max(-32768, Math.min(32767, value));
      this.#count += 1;
      if (this.#count === PIECE) this.#send();
    }
    return !this.#stopped;
  }

  #send() {
    if (!this.#count) return;
    const buffer = this.#samples.slice(0, this.#count).buffer;
    this.port.postMessage(buffer, [buffer]);
    this.#count = 0;
  }
}

registerProcessor("capture", Capture);
