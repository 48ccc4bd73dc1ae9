// The question for a key, which is asked only if the server refuses a request without one.

import { rememberKey } from "./server.js";

const dialog = document.getElementById("key");
const problem = document.getElementById("key-problem");
const field = document.getElementById("key-text");
let wasAsked = false;

/** Ask for a key and keep it. Returns whether there is one to try. */
export function askForKey() {
  problem.hidden = !wasAsked;
  problem.textContent = wasAsked ? "The server did not accept this key." : "";
  wasAsked = true;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.onclose = null;
      if (answer) rememberKey(answer);
      dialog.close();
      resolve(Boolean(answer));
    };
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      close(field.value.trim());
    };
    document.getElementById("key-cancel").onclick = () => close("");
    dialog.onclose = () => close(""); // with the Escape key
  });
}
