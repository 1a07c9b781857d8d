// What happens when the page is open: tables, figures, light and dark, copying the citation.
"use strict";

function startTheme(redraw) {
  const picker = document.getElementById("theme");
  const apply = () => {
    document.documentElement.dataset.theme = picker.value;
    redraw();
  };
  picker.addEventListener("change", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function startCopying() {
  const button = document.getElementById("copy");
  if (!button) return;
  button.addEventListener("click", async () => {
    const text = document.getElementById("bibtex").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById("bibtex"));
      button.textContent = "Selected: copy it with the keyboard";
    }
  });
}

startTables();
startCopying();
const content = document.getElementById("content");
const scans = content ? new Scans(JSON.parse(content.textContent)) : null;
startTheme(() => scans?.refresh());
document.documentElement.dataset.ready = Math.round(performance.now());  // milliseconds from opening to usable
