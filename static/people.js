// Members and invitations: what their pages do by themselves.
"use strict";

const COPIED_MS = 2_000;          // so long a button says that it has copied

// A fragment is the same for everybody, so its forms come without the token of this browser.
document.addEventListener("submit", event => {
  const form = event.target, name = "__anti-forgery-token";
  if ((event.submitter?.formMethod || form.method) !== "post" || form.elements[name]) return;
  form.append(element("input", {type: "hidden", name, value: document.querySelector(`[name='${name}']`).value}));
});

// Removing and banning ask first. One dialog serves the whole list.
document.addEventListener("click", event => {
  const button = event.target.closest("[data-ask]"), what = button?.dataset.ask, dialog = button && $(`${what}-member`);
  if (!dialog) return;
  const person = button.closest(".person"), form = dialog.querySelector("form");
  form.reset();
  form.action = `${form.dataset.base}/${person.dataset.mem}/${what}`;
  dialog.querySelector("bdi").textContent = person.querySelector("b").textContent;
  button.closest("details").open = false;
  dialog.showModal();
});

// A button copies the text of a field.
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]"), field = button && $(button.dataset.copy);
  if (!field) return;
  field.select();
  await copyText(field.value);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
});

// Hides the listed people whose name does not have what is typed; Enter asks the server about all others.
function filterPeople(query) {
  const wanted = query.value.trim().toLowerCase(), list = query.form.querySelector(".people") ?? $("member-list");
  for (const person of list?.querySelectorAll(".person") ?? [])
    person.hidden = !person.querySelector("b").textContent.toLowerCase().includes(wanted);
}
const queries = ["member-query", "picker-query"].map($).filter(Boolean);
for (const query of queries) query.addEventListener("input", () => filterPeople(query));

// The list of members is the same for everybody: which of them is the reader is marked here.
function markReader() {
  const mine = document.querySelector(".settings[data-mem]")?.dataset.mem;
  for (const person of mine ? document.querySelectorAll(".person[data-mem]") : [])
    person.classList.toggle("mine", person.dataset.mem === mine);
}

document.addEventListener("htmx:after:swap", () => {
  markReader();
  tellTimes(document);
  queries.forEach(filterPeople);
});
markReader();
