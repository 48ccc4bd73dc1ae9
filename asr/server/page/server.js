// Requests to the server that this page came from.

const KEY = "asr-key";

/** What the server refused, or why it did not answer: a sentence for the reader. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Keep the key until the tab is closed. */
export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The description of the server's model. */
export async function getModel() {
  let response;
  try {
    response = await fetch(locate("v1/models"), { headers: authorize() });
  } catch {
    throw new ServerError("The server cannot be reached; check that it is running, and try again.");
  }
  if (!response.ok) throw toError(response.status, await response.text());
  return (await response.json()).data[0];
}

/**
 * Transcribe a file.
 *
 * `onSent` is called with the part of the file that has been sent, from 0 to 1, and `onText` with the
 * text of each segment. The result is the last event, which has the text, the segments and the words.
 */
export function transcribe(file, settings, { signal, onSent, onText }) {
  const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
  request.open("POST", locate("v1/audio/transcriptions"));
  for (const [name, value] of Object.entries(authorize())) request.setRequestHeader(name, value);
  const events = new EventReader();
  return new Promise((resolve, reject) => {
    let done = null;
    const read = () => {
      if (request.status !== 200) return;
      for (const event of events.read(request.responseText)) {
        if (event.error) reject(toError(0, JSON.stringify(event)));
        else if (event.type === "transcript.text.delta") onText(event.delta.trim());
        else if (event.type === "transcript.text.done") done = event;
      }
    };
    const lose = () => reject(new ServerError(
      "The connection to the server was lost; it may have refused the size of the file or stopped, so "
      + "try again or send a shorter recording."));
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onprogress = read;
    request.onload = () => {
      read();
      if (done) resolve(done);
      else if (request.status !== 200) reject(toError(request.status, request.responseText));
      else lose(); // the answer ends too early
    };
    request.onerror = lose;
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(describe(file, settings));
  });
}

/**
 * Open a live stream of 16-bit samples. `onMessage` is called with every result.
 *
 * The stream has `send(buffer)`, `end()`, and `finished`, which is kept when the server has sent the
 * last result and is broken by a ServerError.
 */
export async function openStream(rate, settings, onMessage) {
  const address = locate("stream");
  address.protocol = address.protocol.replace("http", "ws");
  address.search = new URLSearchParams({ rate, encoding: "s16le", ...describeLive(settings) });
  const socket = connect(address);
  socket.binaryType = "arraybuffer";
  let finish;
  const finished = new Promise((resolve, reject) => { finish = { resolve, reject }; });
  finished.catch(() => {}); // it is awaited later
  let isFinal = false;
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.error) {
      finish.reject(toError(0, event.data));
      return;
    }
    isFinal ||= Boolean(message.final);
    onMessage(message);
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onclose = () => reject(new ServerError("The server refused the live stream; try again later."));
  }).catch(async (error) => {
    await getModel(); // says more, such as that the key is wrong
    throw error;
  });
  socket.onclose = () => {
    if (isFinal) finish.resolve();
    else finish.reject(new ServerError("The connection to the server was lost; speak again to go on."));
  };
  return {
    finished,
    send: (buffer) => { if (socket.readyState === WebSocket.OPEN) socket.send(buffer); },
    end: () => { if (socket.readyState === WebSocket.OPEN) socket.send('{"end": true}'); },
    close: () => socket.close(),
  };
}

/** Reads the server-sent events of a text that grows. */
class EventReader {
  #position = 0;

  /** The events that are complete and were not returned before. */
  * read(text) {
    for (;;) {
      const end = text.indexOf("\n\n", this.#position);
      if (end < 0) return;
      const line = text.slice(this.#position, end);
      this.#position = end + 2;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

function connect(address) {
  const key = sessionStorage.getItem(KEY);
  try {
    return new WebSocket(address, key ? ["asr", `asr-key.${key}`] : ["asr"]);
  } catch {
    throw new ServerError(
      "Browsers cannot send this key with a live stream; ask for one of letters, digits and hyphens, or "
      + "choose a recording.");
  }
}

function describe(file, settings) {
  const form = new FormData();
  form.append("stream", "true");
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  if (settings.hotwords) form.append("prompt", settings.hotwords);
  if (settings.decoder) form.append("decoder", settings.decoder);
  form.append("file", file, file.name);
  return form;
}

function describeLive(settings) {
  const parameters = { latency_ms: settings.latency };
  if (settings.hotwords) parameters.hotwords = settings.hotwords;
  if (settings.decoder) parameters.decoder = settings.decoder;
  return parameters;
}

function authorize() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function locate(path) {
  return new URL(path, document.baseURI);
}

function toError(status, body) {
  let message = `The server failed with status ${status}; try again later.`;
  try {
    const text = JSON.parse(body).error.message;
    message = text.charAt(0).toUpperCase() + text.slice(1);
  } catch {
    // Not an error of this server: perhaps that of a proxy.
  }
  return new ServerError(message, status);
}
