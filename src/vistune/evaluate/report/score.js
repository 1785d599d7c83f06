"use strict";
const buttons = document.querySelectorAll("[data-filter]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const card of document.querySelectorAll("[data-kind]")) {
      card.hidden = "all" in button.dataset ? false : card.dataset.kind !== button.dataset.filter;
    }
  });
}
// A published row and its dots are lit together.
for (const row of document.querySelectorAll("tr[data-row]")) {
  const light = (on) => {
    row.classList.toggle("lit", on);
    for (const dot of document.querySelectorAll(`circle[data-row="${row.dataset.row}"]`)) dot.classList.toggle("lit", on);
  };
  for (const name of ["pointerenter", "focus"]) row.addEventListener(name, () => light(true));
  for (const name of ["pointerleave", "blur"]) row.addEventListener(name, () => light(false));
}
