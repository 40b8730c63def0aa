"use strict";
// Show one sample everywhere; without a script the first one is seen.
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    const shown = button.dataset.show;
    for (const part of document.querySelectorAll("[data-sample]")) {
      part.hidden = part.dataset.sample !== shown;
    }
    for (const other of document.querySelectorAll("[data-show]")) {
      other.setAttribute("aria-pressed", String(other.dataset.show === shown));
    }
  });
}
