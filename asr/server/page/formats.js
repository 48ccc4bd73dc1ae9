// Transcripts as files. The subtitles are cut as by asr/formats.py, so that they equal those of
// `asr transcribe`.

const CUE_CHARACTERS = 42; // length of a subtitle's line
const CUE_PAUSE_MS = 1000; // a longer silence starts a new subtitle

/** The formats by the ending of their files; each makes a file's content of a transcript. */
export const FORMATS = { txt: toTxt, srt: toSrt, vtt: toVtt, json: toJson };

/** The text alone, on one line. */
export function toTxt({ words }) {
  return `${join(words)}\n`;
}

/** SubRip subtitles. */
export function toSrt({ words }) {
  return cutCues(words)
    .map((cue, index) => `${index + 1}\n${span(cue, ",")}\n${join(cue)}\n`)
    .join("\n");
}

/** WebVTT subtitles. */
export function toVtt({ words }) {
  const blocks = cutCues(words).map((cue) => `${span(cue, ".")}\n${escape(join(cue))}\n`);
  return ["WEBVTT\n", ...blocks].join("\n");
}

/** One line of JSON. */
export function toJson({ name, seconds, words }) {
  return `${JSON.stringify({ path: name, seconds, text: join(words), words })}\n`;
}

/** A time for the reader: 1:05, or 1:02:03. */
export function formatTime(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const end = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${end}` : `${minutes}:${end}`;
}

function cutCues(words) {
  const cues = [];
  for (const word of words) {
    const cue = cues.at(-1);
    if (
      !cue
      || toMilliseconds(word.start) - toMilliseconds(cue.at(-1).end) > CUE_PAUSE_MS
      || [...join([...cue, word])].length > CUE_CHARACTERS
    ) cues.push([word]);
    else cue.push(word);
  }
  return cues;
}

function join(words) {
  return words.map((word) => word.text).join(" ");
}

function span(cue, point) {
  return `${toClock(cue[0].start, point)} --> ${toClock(cue.at(-1).end, point)}`;
}

function toClock(seconds, point) {
  const total = toMilliseconds(seconds);
  const pad = (value, width) => String(Math.floor(value)).padStart(width, "0");
  const clock = [total / 3_600_000, (total / 60_000) % 60, (total / 1000) % 60];
  return `${clock.map((value) => pad(value, 2)).join(":")}${point}${pad(total % 1000, 3)}`;
}

function toMilliseconds(seconds) {
  return Math.round(seconds * 1000);
}

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
