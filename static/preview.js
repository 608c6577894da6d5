// The preview of what stands in the box, as it would be shown. The server makes it, by the templates of messages.
"use strict";

function openPreview(form) {
  const button = $("preview-button"), panel = $("preview"), box = $("text");
  const close = () => { panel.hidden = true; button.setAttribute("aria-expanded", "false"); };
  async function open() {
    const token = document.querySelector("[name='__anti-forgery-token']").value;
    const headers = {"X-CSRF-Token": token, "HX-Request": "true"}, body = new URLSearchParams({text: box.value});
    const answer = await fetch(`${HERE}/preview`, {method: "POST", headers, body}).catch(() => null);
    const html = answer ? await answer.text() : "The server cannot be reached. Try again in a moment.";
    if (answer?.ok) panel.innerHTML = html;                          // escaped by the same templates as every page
    else panel.textContent = isSentence(html) ? html : "There is no preview now.";
    panel.hidden = false;
    button.setAttribute("aria-expanded", "true");
  }
  button.addEventListener("click", () => { if (panel.hidden) open(); else close(); box.focus(); });
  box.addEventListener("input", close);
  form.addEventListener("submit", close);
  form.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
}

if ($("preview-button")) openPreview($("compose"));
