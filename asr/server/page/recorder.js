// The microphone.

const MINUTES_IN_MEMORY = 1; // older samples go into a Blob, which the browser may keep on disk

/** What the browser or the user refused: a sentence for the reader. */
export class MicrophoneError extends Error {}

/** Records the microphone as 16-bit samples of one channel. */
export class Recorder {
  #media = null;
  #context = null;
  #node = null;
  #parts = []; // Blobs and the buffers after them
  #unsaved = 0; // bytes of the buffers
  #bytes = 0;

  /** Samples per second; known after `open`. */
  get rate() {
    return this.#context.sampleRate;
  }

  /** Seconds that were recorded. */
  get seconds() {
    return this.#bytes / 2 / this.rate;
  }

  /** Ask for the microphone. Throws MicrophoneError. */
  async open() {
    if (this.#context) return;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new MicrophoneError(
        "Browsers permit the microphone only at https addresses and at localhost; open this page there, or "
        + "choose a recording.");
    }
    try {
      this.#media = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false },
      });
    } catch (error) {
      throw new MicrophoneError(explain(error));
    }
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    await this.#context.resume();
  }

  /** Pass every piece of samples on, an ArrayBuffer; `onLost` is called if the microphone goes away. */
  start(onSamples, onLost) {
    this.#node = new AudioWorkletNode(this.#context, "capture");
    this.#node.port.onmessage = ({ data }) => {
      if (!data) return;
      this.#keep(data);
      onSamples(data);
    };
    this.#media.getAudioTracks()[0].onended = onLost;
    this.#context.createMediaStreamSource(this.#media).connect(this.#node);
    this.#node.connect(this.#context.destination); // silent; without it some browsers do not run the node
  }

  /** Pass on the last samples. */
  async stop() {
    if (!this.#node) return;
    const node = this.#node;
    const pass = node.port.onmessage;
    await new Promise((resolve) => {
      node.port.onmessage = (event) => {
        pass(event);
        if (!event.data) resolve();
      };
      node.port.postMessage("stop");
    });
    this.#node = null;
  }

  /** Let go of the microphone. */
  async close() {
    this.#media?.getTracks().forEach((track) => track.stop());
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }

  /** The recording as a wav file. */
  toWav() {
    return new Blob([makeHeader(this.#bytes, this.rate), ...this.#parts], { type: "audio/wav" });
  }

  #keep(buffer) {
    this.#parts.push(buffer);
    this.#bytes += buffer.byteLength;
    this.#unsaved += buffer.byteLength;
    if (this.#unsaved > MINUTES_IN_MEMORY * 60 * 2 * this.rate) {
      this.#parts = [new Blob(this.#parts)];
      this.#unsaved = 0;
    }
  }
}

function explain(error) {
  if (error.name === "NotAllowedError") {
    return "The browser did not permit the microphone; permit it in the settings of this page, and try again.";
  }
  if (error.name === "NotFoundError") return "There is no microphone; connect one, and try again.";
  return "The microphone cannot be opened; check that no other program uses it, and try again.";
}

function makeHeader(bytes, rate) {
  const view = new DataView(new ArrayBuffer(44));
  const write = (offset, text) => [...text].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the description
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); // bits
  write(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}
