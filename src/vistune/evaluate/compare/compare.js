"use strict";
const buttons = document.querySelectorAll("[data-who-is]");
const kinds = document.getElementById("kinds");
const cards = document.querySelectorAll("[data-who]");
let who = "";
function filter() {
  let shown = 0;
  for (const card of cards) {
    const kind = kinds ? kinds.value : "";
    const fits = (who === "" || card.dataset.who === who) && (kind === "" || card.dataset.kind === kind);
    card.hidden = !fits;
    if (fits) shown += 1;
  }
  document.getElementById("shown").textContent = `${shown} of ${cards.length}`;
  document.getElementById("none").hidden = shown > 0;
}
for (const button of buttons) {
  button.addEventListener("click", () => {
    who = button.dataset.whoIs;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    filter();
  });
}
if (kinds) kinds.addEventListener("change", filter);
