"use strict";
// Own script of the web viewer: filters that act at once, and how far the catalogue is.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form[data-live]");
  if (form) {
    // An address holds only what is chosen.
    form.addEventListener("submit", () => {
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
    });
    for (const choice of form.querySelectorAll("select")) {
      choice.addEventListener("change", () => form.requestSubmit());
    }
    // Coming back with the browser's own button finds the fields usable.
    addEventListener("pageshow", () => {
      for (const field of form.elements) field.disabled = false;
    });
  }

  const progress = document.querySelector("[data-progress]");
  const ask = async () => {
    const answer = await fetch(progress.dataset.progress).catch(() => null);
    if (!answer || !answer.ok) return;
    const { text, done } = await answer.json();
    progress.textContent = text;
    if (!done) setTimeout(ask, 1000);
  };
  if (progress && progress.dataset.done === "0") setTimeout(ask, 500);
});
