// How sure the model is of a word, in three grades.

const LIKELY = 0.8;
const DOUBTFUL = 0.5;

/** The grade of a word, which is also its class in the style sheet. */
export function grade({ confidence }) {
  if (confidence >= LIKELY) return "sure";
  return confidence >= DOUBTFUL ? "unsure" : "wrong";
}

/** A confidence for the reader. */
export function formatConfidence({ confidence }) {
  return `${Math.round(100 * confidence)} % sure`;
}

/** How many words are probably right: a sentence. */
export function describe(words) {
  if (!words.length) return "No words were recognized.";
  const right = Math.round(words.reduce((sum, word) => sum + word.confidence, 0));
  if (words.length === 1) return `One word, ${formatConfidence(words[0])}.`;
  return `${words.length.toLocaleString("en")} words, of which the model expects ${
    right === words.length ? "all" : `about ${right.toLocaleString("en")}`} to be right.`;
}
