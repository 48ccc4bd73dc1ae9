// What the model can and cannot do, told plainly.

import { renderCard } from "./card.js";

const BUNDLED = "asr-english";
const LANGUAGES = new Intl.DisplayNames("en", { type: "language", fallback: "code" });
const ENGLISH = [
  "Of speakers it has never heard, it gets about one word in two right. It was trained on ten hours of "
    + "real and twenty of synthetic speech, to show how a recognizer works.",
  "Clear, near speech of read sentences works best. Noise and distance make it worse; several voices at "
    + "once, singing and telephone calls were not measured.",
  "It writes lower-case words: no digits, no punctuation, no names of the speakers.",
];

/** Show the description of a model. */
export function showModel(model) {
  const language = nameLanguage(model.language);
  document.getElementById("model").textContent = `${model.id}, ${language}`;
  const facts = [
    `It understands ${language} only.`,
    ...(model.id === BUNDLED ? ENGLISH : []),
    "It marks the words that it doubts, but others may be wrong too: check what matters.",
  ];
  document.getElementById("facts").replaceChildren(...facts.map((fact) => {
    const item = document.createElement("li");
    item.textContent = fact;
    return item;
  }));
  document.getElementById("transcript").lang = model.language;
  document.getElementById("captions").lang = model.language;
  const card = document.getElementById("card");
  card.hidden = !model.card;
  document.getElementById("card-text").replaceChildren(...renderCard(model.card));
}

function nameLanguage(code) {
  try {
    return LANGUAGES.of(code);
  } catch {
    return code; // not a code that the browser knows
  }
}
