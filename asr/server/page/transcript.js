// The transcript: words that can be chosen with the mouse or the keyboard.

import { formatConfidence, grade } from "./confidence.js";
import { formatTime } from "./formats.js";

/**
 * Shows words in paragraphs, one for each segment. One word at a time can be reached with the Tab key,
 * the others from there with the arrow keys. `onChoose` is called with the word that is chosen.
 */
export class Transcript {
  #element;
  #onChoose;
  #words = [];
  #spans = [];
  #here = -1; // index of the word that is heard

  constructor(element, onChoose) {
    this.#element = element;
    this.#onChoose = onChoose;
    element.addEventListener("click", (event) => this.#click(event));
    element.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Show segments, which are lists of words. */
  show(segments) {
    this.#words = segments.flat();
    this.#spans = [];
    this.#here = -1;
    this.#element.replaceChildren(
      ...segments.filter((words) => words.length).map((words) => this.#makeParagraph(words)));
    this.#spans.forEach((span, index) => { span.tabIndex = index ? -1 : 0; });
  }

  /** Mark the word that is heard at a time, if any. */
  mark(seconds) {
    const index = this.#find(seconds);
    if (index === this.#here) return;
    this.#spans[this.#here]?.classList.remove("here");
    this.#spans[index]?.classList.add("here");
    this.#here = index;
  }

  #makeParagraph(words) {
    const paragraph = document.createElement("p");
    paragraph.className = "paragraph";
    const time = document.createElement("time");
    time.textContent = formatTime(words[0].start);
    const text = document.createElement("span");
    words.forEach((word, index) => {
      if (index) text.append(" ");
      text.append(this.#makeWord(word));
    });
    paragraph.append(time, text);
    return paragraph;
  }

  #makeWord(word) {
    const span = document.createElement("span"); // the text of a button could not be selected
    span.className = `word ${grade(word)}`;
    span.setAttribute("role", "button");
    span.title = `${formatConfidence(word)}, at ${word.start.toFixed(1)} s`;
    span.textContent = word.text;
    this.#spans.push(span);
    return span;
  }

  /** The index of the word at a time, or -1. */
  #find(seconds) {
    let [low, high] = [0, this.#words.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#words[middle].end <= seconds) low = middle + 1;
      else high = middle;
    }
    return low < this.#words.length && this.#words[low].start <= seconds ? low : -1;
  }

  #click(event) {
    const index = this.#spans.indexOf(event.target.closest(".word"));
    if (index < 0 || !document.getSelection().isCollapsed) return; // text is being selected
    this.#choose(index);
  }

  #press(event) {
    const index = this.#spans.indexOf(event.target);
    if (index < 0) return;
    const steps = {
      ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1,
      Home: 0, End: this.#spans.length - 1,
    };
    if (event.key in steps) this.#focus(steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.#choose(index);
    else return;
    event.preventDefault();
  }

  #choose(index) {
    this.#focus(index);
    this.#onChoose(this.#words[index]);
  }

  #focus(index) {
    const span = this.#spans[index];
    if (!span) return;
    for (const other of this.#element.querySelectorAll('.word[tabindex="0"]')) other.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
  }
}
