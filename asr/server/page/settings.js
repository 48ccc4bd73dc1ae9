// The settings of recordings and live captions.

const LATENCIES = [320, 640, 1280, 2560]; // milliseconds

const hotwords = document.getElementById("hotwords");
const latency = document.getElementById("latency");
const languageModel = document.getElementById("language-model");

/** Offer what a model can do. */
export function offer(model) {
  const choices = [...new Set([...LATENCIES, model.latency_ms])].sort((a, b) => a - b);
  latency.replaceChildren(...choices.map((value) => {
    const usual = value === model.latency_ms ? " (usual)" : "";
    return new Option(`${value / 1000} s${usual}`, value, Boolean(usual), Boolean(usual));
  }));
  languageModel.checked = model.language_model;
  languageModel.disabled = !model.language_model;
  languageModel.addEventListener("change", showWhatApplies);
  showWhatApplies();
}

/** What is chosen; a decoder of null is that of the server. */
export function read() {
  const usesModel = languageModel.checked;
  return {
    hotwords: hotwords.disabled ? "" : hotwords.value.trim(),
    latency: latency.value,
    decoder: languageModel.disabled ? null : usesModel ? "beam" : "greedy",
  };
}

function showWhatApplies() {
  hotwords.disabled = !languageModel.disabled && !languageModel.checked; // hotwords need the beam
}
