"use strict";
const buttons = document.querySelectorAll("[data-filter]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    let shown = 0;
    for (const card of document.querySelectorAll("[data-flags]")) {
      const wanted = button.dataset.filter;
      card.hidden = wanted !== "" && !card.dataset.flags.split("|").includes(wanted);
      if (!card.hidden) shown += 1;
    }
    document.getElementById("none").hidden = shown > 0;
  });
}
